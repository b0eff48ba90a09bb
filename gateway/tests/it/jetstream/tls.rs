//! Links and the control connection in TLS.

use super::device::Device;
use super::site::{Node, lasting_port};
use crate::nats::server::NatsServer;
use crate::process::gateway::{TempDirectory, gateway_command};
use crate::transports::certificates::Authority;
use gateway::proto::mqtt::QoS;
use rustix::process::Signal;
use std::path::{Path, PathBuf};

/// A server that shows a certificate for `localhost` and asks for one.
struct Secured {
    authority: Authority,
    server: NatsServer,
    directory: TempDirectory,
    /// Whom the gateway trusts.
    ca: PathBuf,
}

impl Secured {
    fn start(is_first: bool) -> Self {
        let authority = Authority::new();
        let shown = authority.server("nats", &["localhost"]);
        authority.client("gateway");
        let directory = TempDirectory::new();
        let file = directory.path().join("nats.conf");
        let text = format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true, \
             handshake_first: {is_first} }}",
            shown.cert,
            shown.key,
            authority.file(),
        );
        std::fs::write(&file, text).unwrap();
        let port = lasting_port().to_string();
        let server = NatsServer::start_with(&["--config", file.to_str().unwrap(), "--port", &port]);
        let ca = directory.path().join("ca.pem");
        std::fs::copy(authority.file(), &ca).unwrap();
        Self { authority, server, directory, ca }
    }

    /// The flags of a gateway that shows the certificate `shown`, or none.
    fn flags(&self, is_first: bool, shown: Option<&str>) -> Vec<String> {
        let file = self.directory.path().join("gateway.toml");
        let path = |kind: &str, name| self.authority.directory().join(format!("{name}.{kind}"));
        let shown = shown.map_or(String::new(), |name| {
            let (cert, key) = (path("pem", name), path("key", name));
            format!("client_certificate_file = {cert:?}\nclient_key_file = {key:?}\n")
        });
        let port = self.server.address().port();
        let text = format!(
            "[[nats]]\nname = \"a\"\nservers = [\"tls://localhost:{port}\"]\nca_file = {:?}\n\
             tls_first = {is_first}\n{shown}",
            self.ca,
        );
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        ["--config", file, "--shards", "2", "--gateway-id", "g1"].map(str::to_owned).to_vec()
    }
}

fn doctor(flags: &[String]) -> String {
    let data = TempDirectory::new();
    let mut command = gateway_command();
    command.args(["doctor", "--json"]).args(flags).arg("--data").arg(data.path());
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

fn trust(file: &Path, authority: &Authority) {
    std::fs::copy(authority.file(), file).unwrap();
}

/// NATS documentation, "Enabling TLS": after INFO, and with `handshake_first` before it.
#[test]
fn everything_passes_through_tls_with_both_certificates() {
    for is_first in [false, true] {
        let secured = Secured::start(is_first);
        let flags = secured.flags(is_first, Some("gateway"));
        let mut node = Node::start_with(flags.clone());
        node.wait_until_live(1);
        let address = node.address().unwrap();
        let mut subscriber = Device::brief(address, "subscriber");
        subscriber.listen(&["#"], QoS::ExactlyOnce);
        let mut publisher = Device::brief(address, "publisher");
        // Longer than a record of TLS.
        let long = "x".repeat(100_000);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for text in ["short", &long] {
                publisher.publish("a", qos, text);
                assert_eq!(subscriber.message().text(), text);
            }
        }
        let said = doctor(&flags);
        assert!(said.contains("lets the gateway in"), "{said}");
        node.stop();
    }
}

#[test]
fn who_shows_no_certificate_is_not_let_in() {
    let secured = Secured::start(false);
    let said = doctor(&secured.flags(false, None));
    assert!(said.contains("nats_connect") && said.contains("CertificateRequired"), "{said}");
}

/// Whom to trust is read again on SIGHUP; a server that is not trusted gets nothing, and the log says
/// why.
#[test]
fn a_server_of_another_authority_is_refused_until_it_is_trusted() {
    let mut secured = Secured::start(false);
    let mut node = Node::start_with(secured.flags(false, Some("gateway")));
    node.wait_until_live(1);
    let other = Authority::new();
    trust(&secured.ca, &other);
    node.signal(Signal::HUP);
    node.wait_for_line("TLS files for links loaded");
    secured.server.kill();
    secured.server.start_again();
    secured.server.wait_until_ready();
    node.wait_for_line("link: TLS failed");
    node.wait_for_line("invalid peer certificate");
    let said = doctor(&secured.flags(false, Some("gateway")));
    assert!(said.contains("invalid peer certificate"), "{said}");

    let mut publisher = Device::brief(node.address().unwrap(), "publisher");
    publisher.ping();
    trust(&secured.ca, &secured.authority);
    node.signal(Signal::HUP);
    publisher.publish("a", QoS::AtLeastOnce, "at last");
    node.stop();
}

/// The certificate is good, and for another name.
#[test]
fn a_server_of_another_name_is_refused() {
    let secured = Secured::start(false);
    let flags = secured.flags(false, Some("gateway"));
    let file = secured.directory.path().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("tls://localhost", "tls://127.0.0.1")).unwrap();
    let said = doctor(&flags);
    assert!(said.contains("not valid for name"), "{said}");
}
