# The command line of the release, in an image that has nothing else: glibc, the system's certificates, no shell, no root.
#
# It compiles nothing: release.yml fills the context with the binaries that it has just built and attested. By hand, with a
# binary of your own sources (DEPLOYMENT.md, "Releases"):
#
#   .github/scripts/release.sh build x86_64-unknown-linux-gnu dist
#   .github/scripts/release.sh image dist dist/image
#   docker build --file Dockerfile --platform linux/amd64 dist/image
FROM gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f
ARG TARGETARCH
COPY --chmod=755 ${TARGETARCH}/refresh-worker /usr/local/bin/refresh-worker
COPY ${TARGETARCH}/LICENSE ${TARGETARCH}/THIRD-PARTY-NOTICES.txt /usr/share/doc/refresh-worker/
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/refresh-worker"]
CMD ["--help"]
