//! The systemd unit, the Debian package, the image and the Kubernetes manifests fit the binary.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use outlast_server::config::{self, Config, Inputs};
use outlast_server::http::{Policy, ROUTES};
use outlast_testkit::process::Setup;
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

use crate::{installed, path, read, succeeded};

const BINARY: &str = env!("CARGO_BIN_EXE_outlast");
const UNIT: &str = "deploy/systemd/outlast.service";
const SETTINGS: &str = "deploy/debian/outlast.toml";
const DOCKERFILE: &str = "deploy/docker/Dockerfile";
const STATEFUL_SET: &str = "deploy/kubernetes/statefulset.yaml";
const SERVICE: &str = "deploy/kubernetes/service.yaml";
const BUDGET: &str = "deploy/kubernetes/poddisruptionbudget.yaml";
const KUSTOMIZATION: &str = "deploy/kubernetes/kustomization.yaml";
/// Where all of them keep the queue.
const STATE: &str = "/var/lib/outlast";

/// The documents of a YAML file.
fn yaml(name: &str) -> Vec<Value> {
    fn value(node: &Yaml<'_>) -> Value {
        match node {
            Yaml::Mapping(pairs) => {
                let pairs =
                    pairs.iter().map(|(key, member)| (key.as_str().unwrap().to_owned(), value(member)));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
            Yaml::Sequence(items) => items.iter().map(value).collect(),
            Yaml::Value(Scalar::String(text)) => json!(text),
            Yaml::Value(Scalar::Integer(number)) => json!(number),
            Yaml::Value(Scalar::Boolean(flag)) => json!(flag),
            other => panic!("nothing of ours needs {other:?}"),
        }
    }
    let text = read(name);
    let documents = Yaml::load_from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    documents.iter().map(value).collect()
}

/// The values of a key in an ini file, in order.
fn entries<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// Loads a configuration from such variables, as the server would.
fn load(environment: Vec<(String, String)>) -> Config {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("outlast.toml");
    std::fs::write(&file, "").unwrap();
    let loaded = config::load(&Inputs { file: Some(file), environment, flags: Vec::new() });
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

/// The binary knows these arguments: with `--help` after them it shows help, and does not complain.
fn assert_understood(arguments: &[&str]) {
    let output = Command::new(BINARY).args(arguments).arg("--help").output().unwrap();
    assert!(succeeded(&format!("{arguments:?}"), &output).contains("Usage: outlast"));
}

#[test]
fn every_variable_that_is_named_is_a_setting() {
    let shown = Command::new(BINARY)
        .args(["config", "show", "--json"])
        .env_clear()
        .current_dir("/")
        .output()
        .unwrap();
    let shown: Value = serde_json::from_str(&succeeded("config show", &shown)).unwrap();
    let known: BTreeSet<String> =
        shown.as_object().unwrap().keys().map(|key| config::variable(key)).collect();
    let mut named = 0;
    for file in [UNIT, SETTINGS, DOCKERFILE, STATEFUL_SET, KUSTOMIZATION] {
        let text = read(file);
        for (start, _) in text.match_indices("OUTLAST_") {
            let rest = &text[start..];
            let end = rest.find(|byte: char| !byte.is_ascii_uppercase() && byte != '_').unwrap_or(rest.len());
            let variable = &rest[..end];
            assert!(
                variable == "OUTLAST_SECTION__KEY" || known.contains(variable),
                "{file} names {variable}"
            );
            named += 1;
        }
    }
    assert!(named > 10);
}

#[test]
fn the_configuration_of_the_package_is_one_and_stays_where_the_unit_lets_it() {
    let loaded = config::load(&Inputs { file: Some(path(SETTINGS)), ..Inputs::default() }).unwrap();
    let config = loaded.config;
    assert_eq!(config.outlast.directory, std::path::Path::new(STATE).join("queue"));
    assert_eq!(config.database.url, format!("sqlite://{STATE}/database.db"));
    assert_eq!(config.server.listen, Config::default().server.listen);
    assert!(config::refuse_open_door(&config).is_none());
    // What is shown as an example is one, too.
    let hash = "ab".repeat(32);
    let example =
        read(SETTINGS).replace("sha256 = \"...\"", &format!("sha256 = \"{hash}\"")).replace("\n#[[", "\n[[");
    let example =
        example.replace("\n#name", "\nname").replace("\n#role", "\nrole").replace("\n#sha256", "\nsha256");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("outlast.toml"), example).unwrap();
    let file = Some(directory.path().join("outlast.toml"));
    let tokens = config::load(&Inputs { file, ..Inputs::default() }).unwrap().config.server.tokens;
    assert_eq!(tokens.len(), 1);
}

#[test]
fn the_unit_starts_the_server_lets_it_finish_and_locks_it_in() {
    let unit = read(UNIT);
    let start = entries(&unit, "ExecStart");
    let words: Vec<&str> = start[0].split(' ').collect();
    assert_eq!((start.len(), words[0]), (1, "/usr/bin/outlast"));
    assert_understood(&words[1..]);
    let stop: u64 = entries(&unit, "TimeoutStopSec")[0].parse().unwrap();
    assert!(Duration::from_secs(stop) > Config::default().server.shutdown_deadline + Duration::from_secs(5));
    assert_eq!(entries(&unit, "StateDirectory"), ["outlast"]);
    assert_eq!(entries(&unit, "WorkingDirectory"), [STATE]);
    assert_eq!(entries(&unit, "RestartPreventExitStatus"), ["78"]);
    let files: u64 = entries(&unit, "LimitNOFILE")[0].parse().unwrap();
    assert!(files > 2 * Config::default().server.max_connections);
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let Some(mut verify) = installed("systemd-analyze", "systemd") else { return };
    // With a binary that is there.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("outlast.service");
    std::fs::write(&copy, read(UNIT).replace("ExecStart=/usr/bin/outlast", &format!("ExecStart={BINARY}")))
        .unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = succeeded(UNIT, &verify.arg("verify").arg(&copy).output().unwrap());
    assert!(!said.contains("outlast.service"), "{said}");
    let Some(mut security) = installed("systemd-analyze", "systemd") else { return };
    // Exposure of at most 2.0 of 10.
    let arguments = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    succeeded(UNIT, &security.args(arguments).arg(&copy).output().unwrap());
}

#[test]
fn the_package_has_everything_that_it_names() {
    let manifest: toml::Table = read("crates/outlast-server/Cargo.toml").parse().unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let crate_directory = "crates/outlast-server";
    let assets: Vec<Vec<&str>> = deb["assets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|asset| asset.as_array().unwrap().iter().map(|part| part.as_str().unwrap()).collect())
        .collect();
    for asset in &assets {
        // The binary, and what `cargo xtask package` has it write.
        let built = asset[0] == "target/release/outlast" || asset[0].starts_with("target/release/package/");
        assert!(built || path(crate_directory).join(asset[0]).is_file(), "{asset:?}");
    }
    let installed_as =
        |to: &str| assets.iter().find(|asset| asset[1] == to).unwrap_or_else(|| panic!("no {to}"));
    assert_eq!(installed_as("usr/bin/")[2], "755");
    for written in ["man/*", "outlast.bash", "_outlast", "outlast.fish"] {
        let from = format!("target/release/package/{written}");
        assert!(assets.iter().any(|asset| asset[0] == from), "no {from}");
    }
    assert!(installed_as("etc/outlast/")[0].ends_with(SETTINGS));
    assert_eq!(deb["conf-files"].as_array().unwrap()[0].as_str(), Some("/etc/outlast/outlast.toml"));
    let units = path(crate_directory).join(deb["systemd-units"]["unit-scripts"].as_str().unwrap());
    assert!(units.join("outlast.service").is_file());
    let scripts = path(crate_directory).join(deb["maintainer-scripts"].as_str().unwrap());
    for script in ["postinst", "postrm"] {
        let script = scripts.join(script);
        let text = std::fs::read_to_string(&script).unwrap();
        assert!(text.contains("#DEBHELPER#"), "the lines for the unit have no place in {}", script.display());
        succeeded(
            &script.display().to_string(),
            &Command::new("sh").arg("-n").arg(&script).output().unwrap(),
        );
    }
    let postinst = std::fs::read_to_string(scripts.join("postinst")).unwrap();
    assert!(
        postinst.contains("adduser --system --group") && deb["depends"].as_str().unwrap().contains("adduser")
    );
}

/// The instructions of a Dockerfile, continued lines joined.
fn instructions(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn the_image_runs_the_server_as_nobody_special() {
    let instructions = instructions(&read(DOCKERFILE));
    let stages: Vec<&String> = instructions.iter().filter(|line| line.starts_with("FROM ")).collect();
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["workspace"]["package"]["rust-version"].as_str().unwrap();
    assert!(stages[0].starts_with(&format!("FROM rust:{version}-")), "{stages:?}");
    assert_eq!(stages.len(), 2, "what is built with does not come along");
    let last: Vec<&String> = instructions.iter().skip_while(|line| line != &stages[1]).collect();
    let of = |word: &str| -> Vec<&str> {
        last.iter().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).collect()
    };
    let user: u32 = of("USER")[0].parse().unwrap();
    assert!(user > 0 && last.iter().any(|line| line.contains(&format!("--uid {user}"))));
    assert_eq!(of("VOLUME"), [STATE]);
    assert_eq!(of("ENTRYPOINT"), ["[\"/usr/bin/outlast\"]"]);
    let arguments: Vec<String> = serde_json::from_str(of("CMD").last().unwrap()).unwrap();
    assert_understood(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let environment = of("ENV")[0].split(' ').map(|pair| pair.split_once('=').unwrap());
    let config = load(environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    let port = Config::default().server.listen.port();
    assert_eq!(config.server.listen.to_string(), format!("0.0.0.0:{port}"));
    assert_eq!(of("EXPOSE"), [port.to_string()]);
    assert!(config.outlast.directory.starts_with(STATE));
    assert!(config::refuse_open_door(&config).is_some(), "an image must not be open by itself");
}

#[test]
fn the_health_check_of_the_image_tells_alive_from_dead() {
    let text = read(DOCKERFILE);
    let check = instructions(&text).into_iter().find(|line| line.starts_with("HEALTHCHECK ")).unwrap();
    let command: Vec<String> = serde_json::from_str(check.split_once("CMD ").unwrap().1).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}/database.db", directory.path().display());
    let mut process = Setup::new(BINARY, directory.path(), &database).start();
    let port = process.url().rsplit_once(':').unwrap().1.to_owned();
    let run = || {
        let command: Vec<String> = command.iter().map(|word| word.replace("6885", &port)).collect();
        Command::new(&command[0]).args(&command[1..]).output().unwrap()
    };
    succeeded("HEALTHCHECK", &run());
    process.kill();
    assert!(!run().status.success());
}

#[test]
fn the_manifests_name_ports_paths_and_settings_that_there_are() {
    let set = &yaml(STATEFUL_SET)[0];
    assert_eq!((&set["apiVersion"], &set["kind"]), (&json!("apps/v1"), &json!("StatefulSet")));
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let arguments: Vec<&str> =
        container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_understood(&arguments);

    let environment = container["env"].as_array().unwrap().iter();
    let secrets = json!({ "database-password": "s3cret", "tokens": format!("a:writer:{}", "ab".repeat(32)) });
    let environment = environment.map(|variable| {
        let secret = &variable["valueFrom"]["secretKeyRef"];
        let value =
            if secret.is_null() { &variable["value"] } else { &secrets[secret["key"].as_str().unwrap()] };
        (variable["name"].as_str().unwrap().to_owned(), value.as_str().unwrap().to_owned())
    });
    let config = load(environment.collect());
    assert!(config::refuse_open_door(&config).is_none(), "it has tokens");
    assert!(outlast_server::database::open(&config.database, true).is_ok());
    assert!(config.database.password.is_some());
    for key in secrets.as_object().unwrap().keys() {
        assert!(
            read(KUSTOMIZATION).contains(&format!("--from-literal={key}=")),
            "how {key} is made is not said"
        );
    }

    let port = config.server.listen.port();
    assert_eq!(port, Config::default().server.listen.port());
    assert_eq!(container["ports"][0], json!({ "name": "http", "containerPort": port }));
    for (probe, path) in
        [("startupProbe", "/startedz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        assert_eq!(container[probe]["httpGet"], json!({ "path": path, "port": "http" }));
        assert!(ROUTES.iter().any(|route| route.path == path && route.policy == Policy::Public), "{path}");
    }
    let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    assert!(grace > config.server.shutdown_deadline + Duration::from_secs(5));

    let mount = &container["volumeMounts"][0];
    assert_eq!(mount["name"], set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]);
    assert!(config.outlast.directory.starts_with(mount["mountPath"].as_str().unwrap()));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert!(read(DOCKERFILE).contains(&format!("USER {}\n", pod["securityContext"]["runAsUser"])));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);

    // Everything selects these pods.
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    let services = yaml(SERVICE);
    for service in &services {
        assert_eq!((&service["kind"], &service["spec"]["selector"]), (&json!("Service"), labels));
        assert_eq!(
            service["spec"]["ports"][0],
            json!({ "name": "http", "port": port, "targetPort": "http" })
        );
    }
    let headless = services.iter().find(|service| service["spec"]["clusterIP"] == "None").unwrap();
    assert_eq!(headless["metadata"]["name"], set["spec"]["serviceName"]);
    let budget = &yaml(BUDGET)[0];
    assert_eq!(
        (&budget["kind"], &budget["apiVersion"]),
        (&json!("PodDisruptionBudget"), &json!("policy/v1"))
    );
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    for resource in yaml(KUSTOMIZATION)[0]["resources"].as_array().unwrap() {
        assert!(path("deploy/kubernetes").join(resource.as_str().unwrap()).is_file(), "{resource}");
    }
}

#[test]
fn kubectl_puts_the_manifests_together() {
    let Some(mut kubectl) = installed("kubectl", "kubernetes-client") else { return };
    let output = kubectl.arg("kustomize").arg(path("deploy/kubernetes")).output().unwrap();
    let text = succeeded("kubectl kustomize", &output);
    assert_eq!(text.matches("\nkind: ").count(), 4, "{text}");
}
