"""GKE: the rendered manifest, read by a YAML parser, and what the fake kubectl gets."""

import pathlib
from typing import Any

import pytest
import yaml
from launching import (
    CASES,
    FLAGS,
    JOBSET,
    ROOT,
    TRICKY,
    container_arguments,
    dry_run,
    fake_programs,
    manifest_text,
    noted_commands,
    printed_commands,
    run,
)


def manifest(words: list[str]) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(manifest_text(dry_run(words)))
    return document


def test_a_slice_is_one_indexed_job_of_all_its_hosts() -> None:
    document = manifest(CASES["gke_apply"])
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert document["metadata"]["name"] == "run-1"
    assert document["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert document["spec"]["failurePolicy"] == {"maxRestarts": 10}
    (job,) = document["spec"]["replicatedJobs"]
    assert job["replicas"] == 1
    spec = job["template"]["spec"]
    # v5e-256: 16 x 16 chips, four to a host; one worker's end is the job's, which JobSet then starts again
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (64, 64, 0)
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    (container,) = pod["containers"]
    assert container["image"] == "gcr.io/mine/lacy:1"
    assert container["resources"] == {"requests": {"google.com/tpu": 4}, "limits": {"google.com/tpu": 4}}
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/data", "readOnly": True}]
    assert spec["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (volume,) = pod["volumes"]
    assert (volume["name"], volume["csi"]["driver"]) == ("data", "gcsfuse.csi.storage.gke.io")
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "my-runs"
    assert "command" not in container  # the image's entry point is the command
    assert container_arguments(document) == ["--distributed=on", *FLAGS, TRICKY]


def test_two_slices_differ_in_nothing_but_what_was_asked() -> None:
    document = manifest(CASES["gke_apply_slices"])
    assert (document["metadata"]["name"], document["metadata"]["namespace"]) == ("run-2", "research")
    assert document["spec"]["failurePolicy"] == {"maxRestarts": 50}
    (job,) = document["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (64, 64)
    pod = spec["template"]["spec"]
    assert pod["serviceAccountName"] == "writer"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"


@pytest.mark.parametrize(
    ("topology", "chips", "hosts"), [("2x4", 8, 1), ("2x4", 4, 2), ("4x4x8", 4, 32), ("1x1", 1, 1), ("2x2", 4, 1)]
)
def test_hosts_follow_from_the_topology(topology: str, chips: int, hosts: int) -> None:
    words = ["gke.sh", "apply", "--name=a", *JOBSET, f"--topology={topology}", f"--chips={chips}", "--", *FLAGS]
    spec = manifest(words)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (hosts, hosts)
    assert spec["template"]["spec"]["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("gke")])
def test_kubectl_gets_exactly_what_a_dry_run_prints(case: str, tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "kubectl")
    result = run(CASES[case], env=env)
    assert result.returncode == 0, result.stderr
    printed = dry_run(CASES[case])
    if "apply" in case:
        assert (tmp_path / "bin" / "stdin").read_text() == manifest_text(printed) + "\n"
        assert noted_commands(tmp_path / "bin") == [["kubectl", "apply", "--filename=-"]]
    else:
        assert noted_commands(tmp_path / "bin") == printed_commands(printed)


@pytest.mark.parametrize("part", ["apply", "get jobset", "logs", "delete"])
def test_a_command_that_fails_ends_the_action_with_its_status(part: str, tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "kubectl")
    case = {"apply": "gke_apply", "delete": "gke_delete"}.get(part, "gke_watch")
    assert run(CASES[case], env={**env, "FAIL": part}).returncode == 7
    assert part in " ".join(noted_commands(tmp_path / "bin")[-1])


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [("{{HOSTS}}", "64", "gke.yaml has no {{HOSTS}}"), ("kind: JobSet", "kind: {{KIND}}", "nothing fills")],
)
def test_template_and_script_must_fit(old: str, new: str, complaint: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "launch").mkdir()
    for name in ("gke.sh", "lib.sh", "gke.yaml"):
        text = (ROOT / "launch" / name).read_text()
        (tmp_path / "launch" / name).write_text(text.replace(old, new) if name == "gke.yaml" else text)
    result = run([str(tmp_path / "launch" / "gke.sh"), *CASES["gke_apply"][1:]])
    assert result.returncode == 2
    assert complaint in result.stderr
