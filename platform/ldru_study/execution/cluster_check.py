"""What is missing before a cluster works, found out before it costs anything: one function each."""

from __future__ import annotations

import os
import platform
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ldru_study.errors import StoreError, StudyError
from ldru_study.execution.cluster_file import (
    PLACEHOLDER,
    PROBLEMS,
    ClusterFile,
    placeholders,
    read_cluster_file,
    schema_problems,
)
from ldru_study.execution.token import find_token, token_path
from ldru_study.results.files import FileRoot

_CREDENTIALS = "AWS credentials"


@dataclass(frozen=True)
class Check:
    """What one look found.

    ``message`` says what was found and, unless ``state`` is ok, what to do. ``is_unreachable``: the
    cluster cannot be reached, or does not let us in.
    """

    name: str
    state: Literal["ok", "missing", "cannot tell"]
    message: str
    is_unreachable: bool = False


def run_checks(path: Path | None, address: str | None, store: str | None) -> list[Check]:
    """Look at everything that a study on a cluster needs.

    Args:
        path: the cluster file; None: the cluster is not one of `ray up`.
        address: where the head answers; None: it is not up yet.
        store: the store's URI; None: the one that the cluster file gives to its nodes.
    """
    checks = []
    file = None
    if path is not None:
        try:
            file = read_cluster_file(path)
        except StudyError as error:
            return [Check("cluster file", "missing", str(error))]
        checks += [check_file(file), check_placeholders(file), check_boto3()]
        checks += [check_credentials(file), check_python(file)]
        store = store or file.environment("LDRU_STORE")
    checks += [check_token(), check_store(store)]
    if address is not None:
        checks.append(check_head(address))
    return checks


def check_file(file: ClusterFile) -> Check:
    """Look for what `ray up` or AWS would refuse, or accept without meaning it."""
    # the other checks rely on the shape that the schema demands
    problems = schema_problems(file)
    untold = ""
    for find in () if problems else PROBLEMS:
        try:
            problems += find(file)
        except ModuleNotFoundError:
            untold = "; node_config cannot be checked without boto3"
    if problems:
        return Check("cluster file", "missing", f"{file.path}: {_listed(problems)}")
    return Check("cluster file", "ok", f"{file.path}: Ray takes it{untold}")


def _listed(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "\n  ".join([f"{len(problems)} problems", *problems])


def check_placeholders(file: ClusterFile) -> Check:
    """Look for values that only the user knows."""
    if found := placeholders(file):
        return Check("own values", "missing", f"write your own in {', '.join(found)}")
    return Check("own values", "ok", "no placeholder is left")


def check_boto3() -> Check:
    """Look for what `ray up` needs to talk to AWS."""
    try:
        import boto3
    except ModuleNotFoundError:
        what_to_do = "`ray up` needs it on this machine: pip install -e '.[aws]'"
        return Check("boto3", "missing", what_to_do)
    return Check("boto3", "ok", f"version {boto3.__version__}")


def check_credentials(file: ClusterFile) -> Check:
    """Ask AWS who we are, in the cluster's region."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.exceptions import ConnectionError as NoConnectionError
    except ModuleNotFoundError:
        return Check(_CREDENTIALS, "cannot tell", "install boto3 first")
    region = file.config["provider"].get("region")
    patience = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
    try:
        session = boto3.Session(region_name=region)
        if session.get_credentials() is None:
            what_to_do = "none found. Run `aws configure`, or set AWS_PROFILE"
            return Check(_CREDENTIALS, "missing", what_to_do)
        me = session.client("sts", config=patience).get_caller_identity()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        what_to_do = "Renew them: `aws configure` or `aws sso login`"
        return Check(_CREDENTIALS, "missing", f"AWS refuses them ({code}). {what_to_do}")
    except (NoConnectionError, HTTPClientError) as error:
        return Check(_CREDENTIALS, "cannot tell", f"AWS does not answer ({error})")
    except BotoCoreError as error:
        return Check(_CREDENTIALS, "missing", f"{error}. Mend ~/.aws or the AWS_... variables")
    return Check(_CREDENTIALS, "ok", f"{me['Arn']} in {region}")


def check_token() -> Check:
    """Look for the token, and for others who could read it."""
    name, path = "token", token_path()
    if os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return Check(name, "ok", "in RAY_AUTH_TOKEN; `ray up` copies ~/.ray/auth_token, though")
    if find_token() is None:
        what_to_do = "Make one: `ray get-auth-token --generate > /dev/null`"
        return Check(name, "missing", f"{path}: none there, or not readable. {what_to_do}")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        found = f"{path}: others can read it ({mode:o})"
        return Check(name, "missing", f"{found}. Run: chmod 600 {path}")
    return Check(name, "ok", f"{path}, for you alone")


def check_store(uri: str | None) -> Check:
    """Write a file to the store, read it back and delete it."""
    name = "store"
    if uri is None:
        return Check(name, "missing", "none given. Give --store s3://..., or set LDRU_STORE")
    if PLACEHOLDER in uri:
        return Check(name, "missing", f"{uri}: write your own bucket")
    probe, sent = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
    try:
        files = FileRoot(uri)
        files.write(probe, sent)
        returned = files.read(probe)
        files.delete(probe)
    except StoreError as error:
        return Check(name, "missing", str(error))
    except OSError as error:
        return Check(name, "missing", f"{uri}/{probe}: cannot be deleted ({error})")
    if returned != sent:
        return Check(name, "missing", f"{uri}: what is read is not what was written")
    if "://" not in uri:
        where = "on every node at the same path, or give an s3:// URI"
        return Check(name, "cannot tell", f"{files.uri}: good here; a cluster needs it {where}")
    return Check(name, "ok", f"{uri}: written, read and deleted, from here")


def check_python(file: ClusterFile) -> Check:
    """Compare this Python with the one that the cluster file installs."""
    name, here = "Python", ".".join(platform.python_version_tuple()[:2])
    commands = "\n".join(map(str, file.config.get("setup_commands") or []))
    found = re.search(r"--python (\d+\.\d+)", commands)
    if found is None:
        return Check(name, "cannot tell", f"the cluster file names none; here it is {here}")
    if found[1] != here:
        what_to_do = f"Write --python {here} in setup_commands, or use {found[1]} here"
        return Check(name, "missing", f"{found[1]} there, {here} here. {what_to_do}")
    return Check(name, "ok", f"{here}, here and there")


def check_head(address: str) -> Check:
    """Ask a running head for its version, as `submit` does."""
    from ldru_study.execution.jobs import UnreachableError, reach

    name = "head"
    try:
        ray_version = reach(address.rstrip("/"))["ray_version"]
    except UnreachableError as error:
        return Check(name, "missing", str(error), is_unreachable=True)
    return Check(name, "ok", f"{address}: answers, Ray {ray_version} as here")
