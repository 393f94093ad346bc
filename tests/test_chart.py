"""The Helm chart, held to what stands elsewhere, to Kubernetes' schemas and to what the exporter takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from deploy.helm.__main__ import CHART, written
from exporter import __version__, cli, config
from exporter.config.loading import SHORTEST_KEY
from tests.charting import (
    DATA,
    KUBERNETES,
    PORT,
    SETS,
    container,
    found,
    helm,
    only,
    pod,
    rendered,
    template,
    workload,
)
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DIRECTORY = "/etc/cryptoloot-exporter"
SOCKET = "--web.health-socket=/tmp/cryptoloot-exporter.sock"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
BLOCKS = [
    block
    for block in re.findall(
        r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "kubernetes.md").read_text(), re.DOTALL
    )
    if set(yaml.safe_load(block)) <= set(VALUES)
]


# ------------------------------------------------------------------------------------------ the chart's files


@pytest.mark.parametrize("path", written(), ids=lambda path: path.name)
def test_the_chart_has_what_stands_elsewhere(path: Path) -> None:
    """`make chart` would change nothing: rules, dashboards, the config's schema, the version."""
    assert written()[path] == path.read_text()


def test_the_chart_has_nothing_left_over() -> None:
    """No copy is of a file that is no more, and the versions are the exporter's."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert set(written()) >= {path for path in (CHART / "files").rglob("*") if path.is_file()}
    assert {__version__} == {chart["version"], chart["appVersion"]}


def test_every_value_is_shown() -> None:
    """values.yaml has each value that the schema takes, in its place, but for sections of the config."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    whole = {
        "global",
        "config",
        "monitoring.tlsConfig",
        "monitoring.basicAuth",
        "monitoring.rules.thresholds",
    }

    def keys(properties: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in properties.items():
            path = prefix + name
            yield path
            if path not in whole:
                yield from keys(value.get("properties", {}), f"{path}.")

    def shown(path: str) -> bool:
        within: Any = VALUES
        for step in path.split("."):
            within = within.get(step, ...) if isinstance(within, dict) else ...
        return within is not ...

    assert ["global"] == [path for path in keys(schema["properties"]) if not shown(path)]


@pytest.mark.parametrize("values", SETS)
def test_helm_has_nothing_to_say(values: str) -> None:
    """`helm lint --strict` passes the chart with each set of values."""
    done = helm("lint", "--strict", str(CHART), "--values", str(DATA / f"{values}.yaml"))

    assert 0 == done.returncode, done.stdout
    assert "[WARNING]" not in done.stdout


# -------------------------------------------------------------------------------------------- what is refused


def refusal(*more: str) -> str:
    """Return what helm says of values that it must refuse, in one line."""
    done = template("default", *more)
    assert 0 != done.returncode
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("place", "assignment"),
    [
        ("shard", "shard=2"),
        ("monitoring/servceMonitor", "monitoring.servceMonitor.enabled=true"),
        ("monitoring/basicAuth/username/key", "monitoring.basicAuth.username.name=x"),
        ("monitoring/rules/thresholds/drop", "monitoring.rules.thresholds.drop.my-site=1"),
        ("shards", "shards=0"),
        ("logLevel", "logLevel=loud"),
        ("image/digest", "image.digest=latest"),
        ("config/sites/0/secret", "config.sites[0].secret=x"),
        ("config/poll/payout/intervall", "config.poll.payout.intervall=1m"),
        ("config/poll/payout/interval", "config.poll.payout.interval=1"),
        ("config/poll/top_users/count", "config.poll.top_users.count=2000"),
    ],
)
def test_what_no_value_is_is_refused_with_its_place(place: str, assignment: str) -> None:
    """The schema knows every name and its bounds, the config's too. Wording is helm's, by its version."""
    said = re.findall(r"[\w-]+", refusal("--set", assignment))

    assert [] == [step for step in place.split("/") if step not in said]


@pytest.mark.parametrize(
    ("said", "assignment"),
    [
        ("config.sites[0] (my-site): give exactly one of secretRef", "config.sites[0].secret_env=X"),
        ("config.sites[1] (my-site): the name is taken", "config.sites[1].name=my-site"),
        ("config.users: names: hmac needs exactly one of keyRef", "config.users.names=hmac"),
        ("config.users: names: hmac needs exactly one of keyRef", "config.users.names_key_env=X"),
        ("webConfig: tls and certificatesSecretName are parts", "webConfig.tls=true"),
        ("externalUrl: one URL cannot name several shards", "shards=2,externalUrl=http://x"),
        ("monitoring.scrapeConfig: /sd lists the sites only", "monitoring.scrapeConfig.enabled=true"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_what_to_do(said: str, assignment: str) -> None:
    """What the exporter would refuse at its start, or never find, is not installed."""
    assert said in refusal("--set", assignment)


def named(release: str, *assignments: str) -> subprocess.CompletedProcess[str]:
    """Render the chart as this release; assignments are texts."""
    sets = [part for assignment in assignments for part in ("--set-string", assignment)]
    return helm("template", release, str(CHART), "--values", str(DATA / "sharded.yaml"), *sets)


@pytest.mark.parametrize(
    ("release", "assignments"),
    [
        ("loot", ["nameOverride=123"]),
        ("loot", ["nameOverride=true"]),
        ("loot", ["nameOverride=null"]),
        ("loot", ["fullnameOverride=yes"]),
        ("l", ["nameOverride=1e3"]),
        ("a" * 53, []),
        ("a" * 49 + "--b", []),
        ("a" * 48 + "---b", []),
        ("1miner", ["fullnameOverride=miner"]),
        ("my.release", ["fullnameOverride=release"]),
    ],
)
def test_names_are_texts_that_kubernetes_accepts(release: str, assignments: list[str]) -> None:
    """Every name is a DNS label and every label a text, whatever values look like and where a cut falls."""
    done = named(release, *assignments)
    assert 0 == done.returncode, done.stderr
    for document in yaml.safe_load_all(done.stdout):
        metadata = document["metadata"]
        assert re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"]), metadata["name"]
        spec = document.get("spec", {})
        selectors = [spec["selector"].get("matchLabels", spec["selector"])] if "selector" in spec else []
        pods = [spec["template"]["metadata"]["labels"]] if "template" in spec else []
        for labels in (metadata["labels"], *selectors, *pods):
            assert [] == [
                (key, value)
                for key, value in labels.items()
                if not isinstance(value, str)
                or not re.fullmatch("([A-Za-z0-9]([-\\w.]{0,61}[A-Za-z0-9])?)?", value)
            ]


@pytest.mark.parametrize("release", ["1miner", "my.release", "0"])
def test_a_name_that_no_service_can_have_is_refused(release: str) -> None:
    """A final name that begins with a digit or has a dot is refused before anything is created."""
    done = named(release)

    assert 0 != done.returncode
    assert f"the name {release}-cryptoloot-exporter cannot be a Service's" in done.stderr
    assert "set fullnameOverride" in done.stderr


@pytest.mark.parametrize(
    ("place", "assignment"),
    [
        ("fullnameOverride", "fullnameOverride=loot.a"),
        ("fullnameOverride", "fullnameOverride=1loot"),
        ("nameOverride", "nameOverride=a.b"),
        ("secretRef/key", "config.sites[0].secretRef.key=.."),
        ("secretRef/key", "config.sites[0].secretRef.key=..data"),
        ("secretRef/key", "config.sites[0].secretRef.key=."),
        ("secretRef/name", "config.sites[0].secretRef.name=a..b"),
        ("secretRef/name", "config.sites[0].secretRef.name=a.-b"),
        ("webConfig/key", "webConfig.key=..data"),
        ("webConfig/secretName", "webConfig.secretName=a-"),
        ("podLabels/team", "podLabels.team=a b"),
        ("podLabels", "podLabels.a b=x"),
        ("monitoring/labels/release", "monitoring.labels.release=-x"),
        ("dashboards/labels/x", "dashboards.labels.x=" + 64 * "x"),
        ("nodeSelector/disk", "nodeSelector.disk=a/b"),
        ("podAnnotations", "podAnnotations.a b=x"),
        ("serviceAccountName", "serviceAccountName=Exporter"),
        ("priorityClassName", "priorityClassName=a_b"),
    ],
)
def test_what_the_server_would_refuse_is_refused_before(place: str, assignment: str) -> None:
    """Names, keys and labels that Kubernetes does not accept are refused by the schema, with their place."""
    said = re.findall(r"[\w-]+", refusal("--set-string", assignment))

    assert [] == [step for step in place.split("/") if step not in said]


@pytest.mark.parametrize(
    ("said", "values"),
    [
        (
            "podLabels: the chart sets app.kubernetes.io/name itself",
            {"podLabels": {"app.kubernetes.io/name": "x"}},
        ),
        (
            "podLabels: the chart sets app.kubernetes.io/instance itself",
            {"podLabels": {"app.kubernetes.io/instance": "loot"}},
        ),
        (
            "podAnnotations: the chart sets checksum/config itself",
            {"podAnnotations": {"checksum/config": "x"}},
        ),
        (
            "monitoring.labels: the chart sets helm.sh/chart itself",
            {"monitoring": {"serviceMonitor": {"enabled": True}, "labels": {"helm.sh/chart": "x"}}},
        ),
        (
            "dashboards.labels: the chart sets app.kubernetes.io/managed-by itself",
            {"dashboards": {"enabled": True, "labels": {"app.kubernetes.io/managed-by": "x"}}},
        ),
        (
            "extraVolumes: tmp is a volume of the chart's own",
            {"extraVolumes": [{"name": "tmp", "emptyDir": {}}]},
        ),
    ],
)
def test_what_the_chart_sets_itself_is_not_overridden(
    said: str, values: dict[str, Any], tmp_path: Path
) -> None:
    """A value that repeats a key of the chart's own is refused: pods would be lost to their Service."""
    (tmp_path / "more.yaml").write_text(json.dumps(values))

    assert said in refusal("--values", str(tmp_path / "more.yaml"))


def test_emptied_labels_are_no_labels(tmp_path: Path) -> None:
    """Emptied maps of labels and annotations leave valid documents with the chart's own labels."""
    emptied = {
        "dashboards": {"enabled": True, "labels": {"grafana_dashboard": None}, "annotations": {}},
        "monitoring": {"labels": {}, "serviceMonitor": {"enabled": True}},
        "podLabels": {},
        "podAnnotations": {},
        "topologySpreadConstraints": [],
    }
    (tmp_path / "emptied.yaml").write_text(json.dumps(emptied))
    documents = rendered("default", "--values", str(tmp_path / "emptied.yaml"))

    boards = [each for each in documents if "-dashboard-" in each["metadata"]["name"]]
    assert len(list((REPOSITORY / "dashboards").glob("*.json"))) == len(boards)
    assert {5} == {len(each["metadata"]["labels"]) for each in documents}


def test_constraints_count_the_charts_pods(tmp_path: Path) -> None:
    """A spread constraint without a selector gets the pods' labels; one that has its own keeps it."""
    spread = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    own = {"matchExpressions": [{"key": "team", "operator": "Exists"}]}
    given = [
        spread,
        spread | {"labelSelector": None},
        spread | {"labelSelector": own},
        spread | {"labelSelector": {}},
    ]
    (tmp_path / "spread.yaml").write_text(json.dumps({"topologySpreadConstraints": given}))
    documents = rendered("default", "--values", str(tmp_path / "spread.yaml"))
    (deployment,) = [each for each in documents if each["kind"] == "Deployment"]
    labels = {"matchLabels": deployment["spec"]["selector"]["matchLabels"]}

    constraints = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [labels, labels, own, {}] == [each["labelSelector"] for each in constraints]
    assert [spread] * 4 == [{key: each[key] for key in spread} for each in constraints]


def test_thousands_of_sites_render(tmp_path: Path) -> None:
    """3,000 keys of one Secret are mounted, each once, and helm needs seconds for it, not minutes."""
    sites = [{"name": f"s{n}", "secretRef": {"name": "all", "key": f"k{n % 2999}"}} for n in range(3000)]
    (tmp_path / "sites.yaml").write_text(json.dumps({"config": {"sites": sites}}))
    documents = rendered("default", "--values", str(tmp_path / "sites.yaml"))  # within helm's minute
    (deployment,) = [each for each in documents if each["kind"] == "Deployment"]

    (secrets,) = [
        volume for volume in deployment["spec"]["template"]["spec"]["volumes"] if volume["name"] == "secrets"
    ]
    (source,) = secrets["projected"]["sources"]
    keys = [item["key"] for item in source["secret"]["items"]]
    assert sorted({f"k{n}" for n in range(2999)}) == keys


def test_an_installation_names_its_sites() -> None:
    """Without values, helm says what is needed."""
    done = helm("template", "loot", str(CHART))

    assert "config.sites: name at least one site, such as {name: my-site, secretRef:" in done.stderr


# --------------------------------------------------------------------------------------- what Kubernetes says


@pytest.mark.parametrize("values", SETS)
def test_kubernetes_takes_every_document(values: str) -> None:
    """Each is valid for the oldest Kubernetes that the chart takes and a newer one, unknown keys refused."""
    documents = [each for each in rendered(values) if "monitoring.coreos.com" not in each["apiVersion"]]

    assert documents
    for version in KUBERNETES:
        told = {kubernetes_validate.validate(each, version, strict=True) for each in documents}
        assert {version} == told


def test_kubernetes_refuses_what_is_wrong() -> None:
    """The check above sees a key that nobody knows, deep in a pod."""
    document = json.loads(json.dumps(workload("default")))
    document["spec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"

    with pytest.raises(kubernetes_validate.ValidationError, match="imagePulPolicy"):
        kubernetes_validate.validate(document, KUBERNETES[-1], strict=True)


def test_everything_is_rendered() -> None:
    """The set that sets every value has each kind of document, once but for ConfigMaps."""
    kinds = sorted(each["kind"] for each in rendered("everything"))

    assert [
        *["ConfigMap"] * (1 + len(list((REPOSITORY / "dashboards").glob("*.json")))),
        *["NetworkPolicy", "PodDisruptionBudget", "PrometheusRule", "ScrapeConfig", "Service"],
        *["ServiceMonitor", "StatefulSet"],
    ] == kinds
    assert ["ConfigMap", "Deployment", "Service"] == sorted(each["kind"] for each in rendered("default"))


@pytest.mark.parametrize("values", SETS)
def test_pods_keep_to_the_restricted_level(values: str) -> None:
    """The pod security standard's level `restricted`, and a file system that nobody writes to."""
    spec, security = pod(values), container(values)["securityContext"]
    volumes = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}

    assert (True, 65532) == (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["runAsUser"])
    assert {"type": "RuntimeDefault"} == spec["securityContext"]["seccompProfile"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert volumes <= {"configMap", "projected", "emptyDir", "csi"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(spec)
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("values", SETS)
def test_everything_finds_its_pods(values: str) -> None:
    """Workload, Service, monitor, policy and budget select the pods, which have names as shards."""
    labels = workload(values)["spec"]["template"]["metadata"]["labels"]
    service = only(values, "Service")
    selectors = [service["spec"]["selector"], workload(values)["spec"]["selector"]["matchLabels"]]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in found(values, "NetworkPolicy")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in found(values, "PodDisruptionBudget")]
    for document in found(values, "ServiceMonitor"):
        assert document["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()

    assert [] == [selector for selector in selectors if not selector.items() <= labels.items()]
    shards = workload(values)["spec"]["replicas"]
    assert ("None" if shards > 1 else None) == service["spec"].get("clusterIP")
    if shards > 1:
        assert service["metadata"]["name"] == workload(values)["spec"]["serviceName"]
    else:
        assert {"type": "Recreate"} == workload(values)["spec"]["strategy"]


# ------------------------------------------------------------------------------------- what the exporter says


def mounted(values: str, root: Path) -> Callable[[str], str]:
    """Write the pod's volumes below a directory, as the kubelet would; return what moves paths there."""
    maps = {each["metadata"]["name"]: each["data"] for each in found(values, "ConfigMap")}
    places = {mount["name"]: mount["mountPath"] for mount in container(values)["volumeMounts"]}
    for volume in pod(values)["volumes"]:
        files = maps[volume["configMap"]["name"]] if "configMap" in volume else {}
        for source in volume.get("projected", {}).get("sources", ()):
            items = source["secret"].get("items", [{"key": "web.yml", "path": "web.yml"}])
            files |= {item["path"]: f"{source['secret']['name']}/{item['key']}" for item in items}
        if "csi" in volume:
            files = {"vault": "vault"}
        for name, content in files.items():
            path = root / places[volume["name"]].strip("/") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content.ljust(SHORTEST_KEY, "="))
    return lambda text: re.sub(rf"({'|'.join(places.values())})/", rf"{root}\g<1>/", text)


@pytest.mark.parametrize("values", SETS)
def test_the_exporter_takes_the_config(values: str, tmp_path: Path) -> None:
    """config.yaml is one that it reads, with the secrets where they are mounted: each the one referred to."""
    moved = mounted(values, tmp_path)
    given = yaml.safe_load((DATA / f"{values}.yaml").read_text())["config"]
    file = tmp_path / DIRECTORY.strip("/") / "config" / "config.yaml"
    file.write_text(moved(file.read_text()))

    loaded = config.load(file, {"ODD_SECRET": "odd"})

    assert [site["name"] for site in given["sites"]] == [site.name for site in loaded.sites]
    secrets = {site.name: site.secret.value.reveal() for site in loaded.sites}
    for site in given["sites"]:
        assert "secretRef" not in site or held(site["secretRef"]) == secrets[site["name"]]
    if key := given.get("users", {}).get("keyRef"):
        assert loaded.users.key
        assert held(key) == loaded.users.key.reveal()


def held(reference: dict[str, str]) -> str:
    """Return what `mounted` writes into the file of a key of a Secret."""
    return "{name}/{key}".format(**reference).ljust(SHORTEST_KEY, "=")


def test_numbers_stay_numbers() -> None:
    """Helm reads numbers as floats; the config has them as they were written."""
    (document,) = [each for each in found("everything", "ConfigMap") if "config.yaml" in each["data"]]
    loaded = yaml.safe_load(document["data"]["config.yaml"])

    assert (1_000_000, 16_777_216) == (
        loaded["poll"]["all_users"]["max_pages"],
        loaded["api"]["max_response_bytes"],
    )


@pytest.mark.parametrize("values", SETS)
def test_the_exporter_takes_the_flags(values: str, tmp_path: Path) -> None:
    """The container's arguments are a command of it, and name files that are mounted."""
    moved = mounted(values, tmp_path)
    parser = cli.parser()
    parsed = parser.parse_args([moved(argument) for argument in container(values)["args"]])

    assert cli.run is parsed.command
    assert parsed.config_file.is_file()
    assert parsed.web_config_file is None or parsed.web_config_file.is_file()
    shards = workload(values)["spec"]["replicas"]
    assert (("auto", shards) if shards > 1 else (None, None)) == (parsed.shard, parsed.total_shards)


@pytest.mark.parametrize("values", SETS)
def test_probes_get_in(values: str) -> None:
    """They ask by HTTP what anybody may ask, else the health socket, which the exporter opens."""
    exporter = container(values)
    guarded = any(argument.startswith("--web.config.file=") for argument in exporter["args"])
    command = ["cryptoloot-exporter", "health", SOCKET]

    for probe, path in (("livenessProbe", "/-/healthy"), ("readinessProbe", "/-/ready")):
        asked = exporter[probe]
        expected: Any = (
            {"exec": {"command": command}} if guarded else {"httpGet": {"path": path, "port": "metrics"}}
        )
        assert expected == {key: asked[key] for key in asked if key in {"exec", "httpGet"}}
    assert SOCKET in exporter["args"]
    assert cli.parser().parse_args(command[1:])
    assert [{"name": "metrics", "containerPort": PORT}] == exporter["ports"]
    assert cli.DEFAULT_ADDRESS.endswith(f":{PORT}")


def test_a_changed_config_restarts_the_pods() -> None:
    """The checksum in the pods' annotations is another, and the same for the same config."""

    def checksum(*more: str) -> str:
        (deployment,) = [each for each in rendered("default", *more) if each["kind"] == "Deployment"]
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum("--set", "logLevel=debug")
    assert checksum() != checksum("--set", "config.poll.payout.interval=2m")


# ----------------------------------------------------------------------------------------------- what is said


def notes(values: str, directory: Path) -> str:
    """Return NOTES.txt as an installation shows it; `template` leaves it out, so it is a manifest here."""
    chart = directory / "chart"
    if not chart.exists():
        shutil.copytree(CHART, chart)
        text = (chart / "templates" / "NOTES.txt").read_text()
        wrapped = (
            f'{{{{ define "notes" }}}}{text}{{{{ end -}}}}\nnotes: {{{{ include "notes" . | quote }}}}\n'
        )
        (chart / "templates" / "notes.yaml").write_text(wrapped)
    done = template(values, "--show-only", "templates/notes.yaml", chart=chart)
    assert 0 == done.returncode, done.stderr
    return str(yaml.safe_load(done.stdout)["notes"])


def test_notes_say_what_is_left_to_do(tmp_path: Path) -> None:
    """Who is not scraped or guarded is told so, who is both is not; the commands name what is there."""
    open_, closed = notes("default", tmp_path), notes("everything", tmp_path)

    assert "1 site, 1 pod." in open_
    assert "monitoring.serviceMonitor.enabled" in open_
    assert "webConfig" in open_
    assert "5 sites, 3 pods." in closed
    assert "monitoring" not in closed
    assert "webConfig" not in closed
    assert "port-forward statefulset/loot 12758" in closed
    assert "point http_sd_configs at" not in open_ + closed


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_documented_values_are_values(block: str, tmp_path: Path) -> None:
    """Each block of values in docs/kubernetes.md installs, over one site."""
    (tmp_path / "block.yaml").write_text(block)

    assert rendered("default", "--values", str(tmp_path / "block.yaml"))
