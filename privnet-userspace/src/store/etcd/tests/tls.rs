//! TLS: whom the store trusts, and whom the cluster does.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::model::Explain as _;
use crate::store::EtcdTls;

/// An etcd that serves only those who have a certificate of its authority, and the files that it takes.
struct Guarded {
    directory: tempfile::TempDir,
    server: Server,
}

impl Guarded {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let dir = directory.path();
        for authority in ["ca", "stranger"] {
            openssl(
                dir,
                &format!("req -x509 -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"),
            );
        }
        // The gateway for JSON refuses whoever has a common name.
        for (who, name) in [("server", "CN=server"), ("host", "CN=host"), ("operator", "O=operator")] {
            std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
                .expect("written");
            openssl(dir, &format!("req -subj /{name} -keyout {who}.key -out {who}.csr"));
            let signed = format!(
                "x509 -req -days 2 -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out {who}.pem"
            );
            run(dir, "openssl", signed.split(' ').map(str::to_owned).collect());
        }
        let file = |name: &str| dir.join(name).display().to_string();
        let arguments = [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
        let mut arguments: Vec<String> =
            arguments.iter().flat_map(|(flag, name)| [(*flag).to_owned(), file(name)]).collect();
        arguments.push("--client-cert-auth".to_owned());
        let server = Server::start_with("https", arguments);
        Self { directory, server }
    }

    /// A store that trusts `ca`, and has the host's certificate or none.
    fn store(&self, ca: &str, with_identity: bool) -> Etcd {
        let read = |name: &str| std::fs::read(self.directory.path().join(name)).expect("a file");
        let identity_pem = with_identity.then(|| (read("host.pem"), read("host.key").into()));
        let mut options = options_for(&[self.server.url()]);
        options.tls = Some(EtcdTls { ca_pem: read(ca), identity_pem });
        Etcd::new(&options).expect("options")
    }

    /// What etcd answers to a question in JSON, with a token of its or without.
    fn ask(&self, path: &str, body: &str, token: &str) -> String {
        let url = format!("{}/v3/auth/{path}", self.server.url());
        let line = ["-sf", "--cacert", "ca.pem", "--cert", "operator.pem", "--key", "operator.key", "-d", body, "-H"];
        let mut arguments: Vec<String> = line.map(str::to_owned).into();
        arguments.extend([format!("Authorization: {token}"), url]);
        run(self.directory.path(), "curl", arguments)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_has_a_certificate_is_served_and_only_a_trusted_cluster_is_used() {
    let guarded = Guarded::start();
    let known = guarded.store("ca.pem", true);
    guarded.server.wait_until_ready(&known).await;
    assert_eq!(put(&known, "a/1").await, Revision(1));
    // The same in everything but the one certificate.
    assert!(guarded.store("ca.pem", false).check().await.is_err());
    let error = guarded.store("stranger.pem", true).check().await.expect_err("signed by somebody else").to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificates_common_name_is_the_user_and_what_the_user_may_do_can_change() {
    /// `/privnet/` to `/privnet0`, the keys of privnet and no others.
    const KEYS: &str = r#""key":"L3ByaXZuZXQv","range_end":"L3ByaXZuZXQw""#;
    let guarded = Guarded::start();
    let store = guarded.store("ca.pem", true);
    guarded.server.wait_until_ready(&store).await;
    let may = format!(r#"{{"name":"agent","perm":{{"permType":"READWRITE",{KEYS}}}}}"#);
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"secret"}"#),
        ("user/grant", r#"{"user":"root","role":"root"}"#),
        ("user/add", r#"{"name":"host","options":{"no_password":true}}"#),
        ("role/add", r#"{"name":"agent"}"#),
        ("role/grant", &may),
        ("user/grant", r#"{"user":"host","role":"agent"}"#),
        ("enable", "{}"),
    ] {
        guarded.ask(path, body, "");
    }
    let answer: serde_json::Value =
        serde_json::from_str(&guarded.ask("authenticate", r#"{"name":"root","password":"secret"}"#, "")).expect("JSON");
    let token = answer["token"].as_str().expect("a token");
    store.check().await.expect("let in");
    let mut watch = store.watch(&prefix("a/"), Revision(0)).await.expect("watching");
    let revision = put(&store, "a/1").await;
    assert_eq!(next(&mut watch).await, put_of("a/1", revision));

    guarded.ask("role/revoke", &format!(r#"{{"role":"agent",{KEYS}}}"#), token);
    let error = store.check().await.expect_err("no more");
    assert!(error.to_string().contains("permission denied"), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("role")), "{:?}", error.remedy());
    let error = store.commit(Transaction::new().put(key("a/2"), [0])).await.expect_err("no more").to_string();
    assert!(error.contains("permission denied"), "it certainly did not happen: {error}");

    guarded.ask("role/grant", &may, token);
    store.check().await.expect("let in again");
    let revision = put(&store, "a/2").await;
    assert_eq!(next(&mut watch).await, put_of("a/2", revision));
}

/// Makes a key and what is asked for it.
fn openssl(dir: &Path, arguments: &str) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"].map(str::to_owned);
    run(dir, "openssl", arguments.split(' ').map(str::to_owned).chain(key).collect());
}

fn run(dir: &Path, program: &str, arguments: Vec<String>) -> String {
    let output = Command::new(program).current_dir(dir).args(&arguments).output().expect(program);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
