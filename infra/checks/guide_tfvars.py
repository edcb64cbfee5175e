#!/usr/bin/env python3
"""Writes each terraform.tfvars of DEPLOYMENT.md into its example, with a test that plans it: guide_tfvars.py GUIDE INFRA_FOLDER.

To be used on a copy of infra/. The mocks are those of the example's own test.
"""
import pathlib
import re
import sys

guide, infra = pathlib.Path(sys.argv[1]).read_text(), pathlib.Path(sys.argv[2])
blocks = re.findall(r"^cd infra/(examples/[a-z-]+)\n(?:(?!```).*\n)*?.*<<'VARIABLES'\n((?:.*\n)*?)VARIABLES$", guide, re.M)
examples = sorted(str(folder.relative_to(infra)) for folder in infra.glob("examples/*"))
if sorted(example for example, _ in blocks) != examples:
    sys.exit(f"DEPLOYMENT.md has a terraform.tfvars for {sorted(example for example, _ in blocks)}; the examples are {examples}")
for example, values in blocks:
    folder = infra / example
    mocks = (folder / "tests/plan.tftest.hcl").read_text().split("\nvariables {\n")[0]
    (folder / "terraform.tfvars").write_text(values)
    (folder / "tests/guide.tftest.hcl").write_text(mocks + '\nrun "values_of_the_guide" {\n  command = plan\n}\n')
