//! The manifests of `k8s/` render, keep to the schemas of Kubernetes and to its strictest standard for pods, and carry
//! configurations that the binaries take.

#[macro_use]
mod foreign;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::Parser as _;
use clarion_coordinator::config::{Args, Config};
use clarion_loadgen::gateway::GatewayConfig;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use foreign::{Python, output, verdict};

/// A copy of `k8s/`, with keys made as its README says.
async fn manifests() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s"), &dir.path().join("k8s"));
    let keys = dir.path().join("k8s/overlays/local/keys");
    let made = output(Command::new(env!("CARGO_BIN_EXE_loadgen")).args(["keys", "--directory"]).arg(&keys)).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    dir
}

/// All but keys of one's own.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|e| e.expect("an entry")) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_file() {
            fs::copy(path, to).expect("copied");
        } else if entry.file_name() != "keys" {
            copy(&path, &to);
        }
    }
}

/// # Errors
/// There is no kubectl here.
async fn rendered(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let mut kustomize = Command::new("kubectl");
    kustomize.arg("kustomize").arg(dir.join("k8s").join(name)).kill_on_drop(true);
    let Ok(rendered) = kustomize.output().await else {
        return Err("kubectl is not installed: the manifests were not rendered".to_owned());
    };
    assert!(rendered.status.success(), "{name}: {}", String::from_utf8_lossy(&rendered.stderr));
    let path = dir.join(format!("{}.yaml", name.replace('/', "-")));
    fs::write(&path, rendered.stdout).expect("written");
    Ok(path)
}

#[tokio::test]
async fn they_render_and_keep_to_the_schemas() {
    let dir = manifests().await;
    let base = or_skip!(rendered(dir.path(), "base").await);
    let local = rendered(dir.path(), "overlays/local").await.expect("as before");
    let city = rendered(dir.path(), "overlays/local/city").await.expect("as before");
    let python = or_skip!(Python::installed().await);
    for (files, kinds) in [
        (vec![&base], json!({ "Deployment": 1, "StatefulSet": 1, "Service": 2, "ConfigMap": 1 })),
        (vec![&local, &city], json!({ "Deployment": 3, "StatefulSet": 1, "Job": 1, "Secret": 2, "Namespace": 1 })),
    ] {
        let told = verdict(python.program("manifests.py").args(files)).await;
        assert_eq!(told["problems"], json!([]));
        for (kind, count) in kinds.as_object().expect("an object") {
            assert_eq!(&told["kinds"][kind], count, "{kind}: {told}");
        }
    }
}

/// A configuration file with the places where a pod finds its files replaced by where they are here.
fn here(dir: &Path, name: &str) -> PathBuf {
    let local = dir.join("k8s/overlays/local");
    let keys = local.join("keys").display().to_string();
    let text = fs::read_to_string(local.join(name)).expect("a configuration");
    let text = text.replace("/etc/clarion/credentials", &keys).replace("/etc/clarion/gateways", &keys);
    let path = dir.join(name);
    fs::write(&path, text).expect("written");
    path
}

#[tokio::test]
async fn the_binaries_take_their_configurations() {
    let dir = manifests().await;
    let path = here(dir.path(), "coordinator.toml");
    let args = [OsString::from("coordinator"), "--config".into(), path.into()];
    let config = Config::load(Args::parse_from(args)).expect("the coordinator takes it");
    assert_eq!(config.gateways.len(), config.credentials.len());

    for name in ["gateway-apns.toml", "gateway-fcm.toml"] {
        let text = fs::read_to_string(here(dir.path(), name)).expect("a configuration");
        let gateway: GatewayConfig = toml::from_str(&text).expect(name);
        gateway.policy().expect(name);
        let tls = gateway.tls.expect("clients must know its CA beforehand");
        assert!([tls.ca_file, tls.certificate_file, tls.key_file].iter().all(|f| f.is_file()));
    }
}
