//! The subcommand `loadgen keys`: creates the keys and certificates that an emulated gateway and a
//! coordinator share.
//!
//! A run on one machine creates keys and certificates when it starts. In a cluster each process
//! gets them as a Secret, so this subcommand creates all of them beforehand in one folder.

use std::{io, path::PathBuf};

use clarion_emulator::{config::TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM, identity::Identity};

use super::{KEY_ID, TEAM_ID, service_account, signing_key, write_private};
use crate::names::PROJECT;

/// Arguments of `loadgen keys`.
#[derive(Debug, clap::Args)]
#[command(
    about = "Create keys and certificates for gateway emulators in a cluster",
    long_about = description()
)]
pub struct Arguments {
    /// Folder for the files, created if absent; existing files of the same names are replaced
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// DNS names and IP addresses of the emulators, for their certificate
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "gateway-apns,gateway-fcm,localhost"
    )]
    server_names: Vec<String>,
    /// Address of the emulated FCM's token endpoint, written to service-account.json
    #[arg(long, value_name = "URI", default_value = "https://gateway-fcm:7444/token")]
    token_uri: String,
}

fn description() -> String {
    format!(
        "Create keys and certificates for gateway emulators in a cluster.\n\n\
         Writes into the folder: ca.pem, server.pem and server.key (the emulators' certificate), \
         provider-key.p8 and provider-key.pub.pem (APNs, key id {KEY_ID} of team {TEAM_ID}), \
         service-account.json and service-account.pub.pem (FCM, project {PROJECT}; its key is the \
         same everywhere). The keys are valid for the emulators only."
    )
}

/// Creates keys and certificates and writes them to the folder.
///
/// # Errors
/// If the folder cannot be written, or a name is neither a DNS name nor an IP address.
pub fn write(arguments: &Arguments) -> io::Result<()> {
    let directory = &arguments.directory;
    let named =
        |path: &PathBuf, e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    std::fs::create_dir_all(directory).map_err(|e| named(directory, e))?;
    let identity = Identity::generate(&arguments.server_names)?;
    for (name, pem) in [
        ("ca.pem", &identity.ca_pem),
        ("server.pem", &identity.certificate_pem),
        ("server.key", &identity.key_pem),
    ] {
        let path = directory.join(name);
        write_private(&path, pem).map_err(|e| named(&path, e))?;
    }
    signing_key(directory).map_err(io::Error::other)?;
    service_account(directory, &arguments.token_uri).map_err(io::Error::other)?;
    let public = directory.join("service-account.pub.pem");
    write_private(&public, TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM).map_err(|e| named(&public, e))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clarion_emulator::{Gateway, GatewayConfig, identity::TlsFiles};

    use super::*;

    const TOKEN_URI: &str = "https://gateway/token";

    #[test]
    fn a_gateway_starts_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("keys");
        write(&Arguments {
            directory: directory.clone(),
            server_names: vec!["gateway".to_owned()],
            token_uri: TOKEN_URI.to_owned(),
        })
        .unwrap();
        let path = |name: &str| directory.join(name);
        let tls = TlsFiles {
            certificate_file: path("server.pem"),
            key_file: path("server.key"),
            ca_file: path("ca.pem"),
        };
        let config = GatewayConfig { tls: Some(tls.clone()), ..GatewayConfig::default() };
        let gateway = Gateway::start(config.clone()).unwrap();
        assert_eq!(gateway.ca_pem(), std::fs::read_to_string(path("ca.pem")).unwrap());
        gateway.stop();

        // A certificate and a key that do not belong together are detected.
        write(&Arguments {
            directory: dir.path().join("other"),
            server_names: vec!["gateway".to_owned()],
            token_uri: TOKEN_URI.to_owned(),
        })
        .unwrap();
        std::fs::copy(dir.path().join("other/server.key"), path("server.key")).unwrap();
        let Err(error) = Gateway::start(config) else {
            panic!("a key of another certificate was taken")
        };
        assert!(error.to_string().starts_with("tls: "), "{error}");
    }
}
