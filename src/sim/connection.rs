//! Connections that can be cut, and that know when a call reached this machine.
//!
//! HTTP servers are careful not to do what a failing network does. Here a handler can cut its own connection, and the next
//! write fails as if the line had gone dead.
//!
//! A busy simulator handles a call later than it came. On Linux the kernel reports its own time of receipt, so that the
//! measured rate of a caller does not depend on how busy the simulator is.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

use crate::clock::{Clock as _, SystemClock};

/// The connection of a call, as its handler sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Line(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_cut: AtomicBool,
    /// The arrival of the newest bytes, in nanoseconds of boot time; 0 when the kernel did not report it.
    received: AtomicU64,
}

impl Line {
    /// Cuts the connection.
    pub(super) fn cut(&self) {
        self.0.is_cut.store(true, Ordering::Relaxed);
    }

    /// The boot time at which the newest bytes reached this machine. The call is complete with them, since callers wait for
    /// its response before they send more.
    pub(super) fn received(&self) -> Duration {
        match self.0.received.load(Ordering::Relaxed) {
            // Without a stamp the time of reading is the best there is.
            0 => SystemClock.boot(),
            nanos => Duration::from_nanos(nanos),
        }
    }

    // A cut shows in the next write, as with a real network.
    fn check(&self) -> io::Result<()> {
        if self.0.is_cut.load(Ordering::Relaxed) { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for Line {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        stream.io().line.clone()
    }
}

#[derive(Debug)]
pub(super) struct CuttableListener(pub(super) TcpListener);

impl Listener for CuttableListener {
    type Io = CuttableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        // Small responses must not wait for the next packet. A failure to set this only costs time.
        let _ = stream.set_nodelay(true);
        stamps::ask_for(&stream);
        (CuttableStream { stream, line: Line::default() }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

#[derive(Debug)]
pub(super) struct CuttableStream {
    stream: TcpStream,
    line: Line,
}

impl AsyncRead for CuttableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let received = ready!(stamps::poll_read(&mut self.stream, context, buffer))?;
        let nanos = received.map_or(0, |received| u64::try_from(received.as_nanos()).unwrap_or_default());
        self.line.0.received.store(nanos, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.line.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.line.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The kernel's time of receipt, as Linux reports it.
#[cfg(target_os = "linux")]
mod stamps {
    use std::{
        io::{self, IoSliceMut},
        os::fd::AsRawFd as _,
        task::{Context, Poll, ready},
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    use nix::sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns},
        time::TimeSpec,
    };
    use tokio::{
        io::{Interest, ReadBuf},
        net::TcpStream,
    };

    use crate::clock::{Clock as _, SystemClock};

    /// The greatest age of a stamp. An older one comes from a clock that was set in between.
    const OLDEST: Duration = Duration::from_secs(60);

    /// The longest time between two readings of clocks, one right after the other.
    const SHORTEST_PAUSE: Duration = Duration::from_micros(500);

    /// Asks the kernel for stamps. If it refuses, the time of reading counts instead.
    pub(super) fn ask_for(stream: &TcpStream) {
        // A refusal changes nothing but the precision.
        let _ = setsockopt(stream, ReceiveTimestampns, &true);
    }

    /// Reads. Returns the boot time at which the newest bytes came, if the kernel reports it.
    pub(super) fn poll_read(
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Duration>>> {
        loop {
            ready!(stream.poll_read_ready(context))?;
            match stream.try_io(Interest::READABLE, || receive(stream, buffer.initialize_unfilled())) {
                Ok((bytes, stamp)) => {
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(stamp.and_then(boot_time_of)));
                }
                // The readiness was out of date: wait for the next.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn receive(stream: &TcpStream, bytes: &mut [u8]) -> io::Result<(usize, Option<Duration>)> {
        let mut slices = [IoSliceMut::new(bytes)];
        let mut control = nix::cmsg_space!(TimeSpec);
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
        let stamp = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
            _ => None,
        });
        Ok((message.bytes, stamp))
    }

    /// Converts a stamp, which is wall time. For that two clocks are compared. A busy machine may pause between them: the first
    /// clock, read again, shows that, and both are read again.
    fn boot_time_of(stamp: Duration) -> Option<Duration> {
        // A machine that pauses twenty times in a row is too busy for a precise answer.
        for _ in 0..20 {
            let before = SystemClock.boot();
            let age = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(stamp)?;
            let paused = SystemClock.boot().saturating_sub(before);
            // The wall clock was set between the stamp and now.
            if age >= OLDEST {
                return None;
            }
            if paused < SHORTEST_PAUSE {
                return before.checked_sub(age);
            }
        }
        None
    }
}

/// On other systems the time of reading counts.
#[cfg(not(target_os = "linux"))]
mod stamps {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll, ready},
        time::Duration,
    };

    use tokio::{
        io::{AsyncRead as _, ReadBuf},
        net::TcpStream,
    };

    pub(super) fn ask_for(_: &TcpStream) {}

    pub(super) fn poll_read(
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Option<Duration>>> {
        ready!(Pin::new(stream).poll_read(context, buffer))?;
        Poll::Ready(Ok(None))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn unread_bytes_keep_arrival_time() {
        let mut listener = CuttableListener(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let mut caller = TcpStream::connect(address).await.unwrap();
        let (mut stream, _) = listener.accept().await;
        let mut rounds = Vec::new();
        for _ in 0..5 {
            let sent = SystemClock.boot();
            caller.write_all(b"call").await.unwrap();
            std::thread::sleep(Duration::from_millis(50));
            let reads = SystemClock.boot();
            stream.read_exact(&mut [0; 4]).await.unwrap();
            rounds.push((sent, stream.line.received(), reads));
        }
        // A stamp is converted by reading two clocks. A pause between the readings falsifies it, but not in all five rounds.
        let is_known = |(sent, received, reads): &(Duration, Duration, Duration)| {
            *received + Duration::from_millis(10) > *sent && received < reads
        };
        assert!(rounds.iter().any(is_known), "{rounds:?}");
    }
}
