"""Scenes that install the service in the other ways that the repository has examples of."""

import asyncio
import os
import subprocess
import sys
import time

import asyncpg

from cluster.drill import AFTER, EXAMPLES, ROOT, Drill, DrillFailed, wait_for_rollouts
from cluster.node import NAMESPACE
from cluster.scenes import uninstall

# A user that no image knows, as OpenShift chooses one.
ANY_USER = 1000620000
BASE = ROOT / "deploy" / "kubernetes" / "base"
DATABASE_CA = "/run/secrets/aircall-oauth/database-ca.pem"
LESSER_ROLE = "lesser"
OVERLAY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: {namespace}
resources: [{base}]
images: [{{name: aircall-oauth, newTag: {tag}}}]
configMapGenerator: [{{name: aircall-oauth, behavior: merge, literals: {settings}}}]
"""


async def examples(drill: Drill) -> None:
    """Install with example values, one after the other, each with the Secrets that it names."""
    await _make_what_they_name(drill)
    user = ",".join(f"podSecurityContext.{name}={ANY_USER}" for name in ("runAsUser", "fsGroup"))
    changes = {
        "random-user": f"image.tag={AFTER},podSecurityContext.runAsGroup=0,{user}",
        "private-ca": f"image.tag={AFTER}",
        "separate-secrets": "web.replicas=1",
        "two-roles": f"image.tag={AFTER},secrets.existingSecret=lesser-role",
    }
    for name, changed in changes.items():
        if name == "two-roles":
            await _make_lesser_role(drill)
        began = time.monotonic()
        await drill.helm("install", EXAMPLES / f"{name}.yaml", "--set", changed)
        drill.tell(f"examples: {name} is ready after", f"{time.monotonic() - began:.1f} s")
        if name == "private-ca":
            await _judge_authority(drill)
        await uninstall(drill)


async def _judge_authority(drill: Drill) -> None:
    """The database's authority has to be where the example's URL names it, and readable to the service's user."""
    _, said = await drill.web_pod().container().run(["cat", DATABASE_CA])
    expected = drill.outside.authority.certificate.read_text()
    drill.judge("examples: private-ca: the database's authority", DATABASE_CA, well=said == expected)


async def _make_what_they_name(drill: Drill) -> None:
    given = {name.removeprefix("AIRCALL_OAUTH_"): text for name, text in drill.outside.secrets.items()}
    owner = given["DATABASE_URL"]
    await drill.make("secrets", "postgres-ca", {"ca.crt": drill.outside.authority.certificate.read_text()})
    await drill.make("secrets", "aircall-db-app", {"uri": owner})
    await drill.make("secrets", "aircall-app", {"client-secret": given["CLIENT_SECRET"]})
    keys = {"sealing": given["SECRET_KEYS"], "fingerprint": given["FINGERPRINT_KEY"]}
    await drill.make("secrets", "aircall-keys", keys)
    await drill.make("secrets", "aircall-db-owner", {"uri": owner})


async def _make_lesser_role(drill: Drill) -> None:
    """Make a role that may do what `migrate --print-grants` prints, and a Secret with its URL."""
    url = await drill.outside.make_role(LESSER_ROLE)
    settings = {f"AIRCALL_OAUTH_{name}": text for name, text in drill.outside.settings().items()}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "aircall_oauth", "migrate", "--print-grants", LESSER_ROLE],
        env={"PATH": os.environ["PATH"], **settings, **drill.outside.secrets},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DrillFailed(f"migrate --print-grants: {done.stderr}")
    connection = await asyncpg.connect(drill.outside.secrets["AIRCALL_OAUTH_DATABASE_URL"])
    await connection.execute(done.stdout)
    await connection.close()
    await drill.make("secrets", "lesser-role", {**drill.outside.secrets, "AIRCALL_OAUTH_DATABASE_URL": url})


async def kustomize(drill: Drill) -> None:
    """Apply an overlay over the kustomize base: pods and migration begin at the same time."""
    overlay = drill.folder / "overlay"
    overlay.mkdir()
    settings = [f"AIRCALL_OAUTH_{name}={text}" for name, text in drill.outside.settings().items()]
    base = os.path.relpath(BASE, overlay)
    text = OVERLAY.format(namespace=NAMESPACE, base=base, tag=AFTER, settings=settings)
    (overlay / "kustomization.yaml").write_text(text)
    # As docs/containers.md says: a Job that is there can't be changed.
    job = ["delete", "job", "aircall-oauth-migrate", "--ignore-not-found", "--namespace", NAMESPACE]
    await drill.run("kubectl", *job)
    began = time.monotonic()
    await drill.run("kubectl", "apply", "--kustomize", overlay)
    await wait_for_rollouts(drill)
    drill.tell("kustomize: every pod is ready after", f"{time.monotonic() - began:.1f} s")
    await drill.run("kubectl", "delete", "--kustomize", overlay, "--wait")
    await drill.wait_until_empty()
