//! TLS: whom the store trusts, and whom the cluster does.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::store::EtcdTls;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_has_a_certificate_is_served_and_only_a_trusted_cluster_is_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    for authority in ["ca", "stranger"] {
        openssl(dir, &format!("req -x509 -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"));
    }
    for who in ["server", "host"] {
        std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
            .expect("written");
        openssl(dir, &format!("req -subj /CN={who} -keyout {who}.key -out {who}.csr"));
        let signed = format!(
            "x509 -req -days 2 -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out {who}.pem"
        );
        run(dir, signed.split(' ').map(str::to_owned).collect());
    }
    let file = |name: &str| dir.join(name).display().to_string();
    let arguments = [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
    let mut arguments: Vec<String> =
        arguments.iter().flat_map(|(flag, name)| [(*flag).to_owned(), file(name)]).collect();
    arguments.push("--client-cert-auth".to_owned());
    let server = Server::start_with("https", arguments);
    let store = |ca: &str, with_identity: bool| {
        let read = |name: &str| std::fs::read(dir.join(name)).expect("a file");
        let identity_pem = with_identity.then(|| (read("host.pem"), read("host.key").into()));
        let mut options = options_for(&[server.url()]);
        options.tls = Some(EtcdTls { ca_pem: read(ca), identity_pem });
        Etcd::new(&options).expect("options")
    };
    let known = store("ca.pem", true);
    server.wait_until_ready(&known).await;
    assert_eq!(put(&known, "a/1").await, Revision(1));
    // The same in everything but the one certificate.
    assert!(store("ca.pem", false).check().await.is_err());
    let error = store("stranger.pem", true).check().await.expect_err("signed by somebody else").to_string();
    assert!(error.contains("certificate"), "{error}");
}

/// Makes a key and what is asked for it.
fn openssl(dir: &Path, arguments: &str) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"].map(str::to_owned);
    run(dir, arguments.split(' ').map(str::to_owned).chain(key).collect());
}

fn run(dir: &Path, arguments: Vec<String>) {
    let output = Command::new("openssl").current_dir(dir).args(&arguments).output().expect("the program openssl");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
