//! Which method decides, with what is remembered, and somebody to be asked over HTTP.

use super::*;
use crate::auth::PasswordHash;
use crate::config::{AuthMethod, Config, Environment, Request};
use crate::proto::access::{Identity, Proof};
use crate::proto::handler::{Origin, TransportKind};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Where the clocks begin: 2001.
const START_MS: u64 = 1_000_000_000_000;

const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Whom the threads answer.
struct Heard(flume::Sender<Authentication>, flume::Sender<i64>);

impl Shards for Heard {
    fn answer(&self, _: ShardIndex, _: ConnectionId, answer: Authentication) {
        self.0.send(answer).unwrap();
    }

    fn challenge(&self, _: ShardIndex, _: ConnectionId, _: Box<Challenge>) {
        unreachable!("nobody asks for one");
    }

    fn wall_clock(&self, ahead_ms: i64) {
        self.1.send(ahead_ms).unwrap();
    }

    fn recheck(&self, _: &Arc<Directory>) {}
}

/// Running threads, and somebody who is asked over HTTP.
struct Scene {
    threads: AuthenticationThreads,
    answers: flume::Receiver<Authentication>,
    /// How far ahead the wall clock was said to be.
    ahead_ms: flume::Receiver<i64>,
    /// Both clocks: the steady one, and the wall's.
    clocks: [Arc<AtomicU64>; 2],
    /// What was asked over HTTP.
    questions: flume::Receiver<Value>,
    password_file: PathBuf,
}

impl Scene {
    /// `decide` gives the answers over HTTP; anna has the password pw.
    fn start(methods: &[AuthMethod], decide: fn(&Value) -> Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, questions) = flume::unbounded();
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let question = read_question(&stream);
                asked.send(question.clone()).unwrap();
                reply(&stream, &decide(&question));
            }
        });
        let name = format!("gateway-auth-{}-{}", std::process::id(), address.port());
        let password_file = std::env::temp_dir().join(name);
        let hash = PasswordHash::new(b"pw", NonZeroU32::MIN).unwrap();
        std::fs::write(&password_file, format!("anna:{hash}\n")).unwrap();
        let config = config(methods, address, &password_file);
        let directory = Arc::new(Directory::load(&config).unwrap());
        let (heard, answers) = flume::unbounded();
        let (told, ahead_ms) = flume::unbounded();
        let clocks = [(); 2].map(|()| Arc::new(AtomicU64::new(START_MS)));
        let [steady, wall] = clocks.each_ref().map(|clock| {
            let clock = Arc::clone(clock);
            Arc::new(move || Timestamp(clock.load(Ordering::Relaxed))) as ReadClock
        });
        let clock = Clocks { steady, wall };
        let callout = directory.callout_settings(&config, &clock);
        let settings = ThreadSettings { clock, threads: 1, queue_max: 8, cache_max: 64 };
        let shards: Arc<dyn Shards> = Arc::new(Heard(heard, told));
        let threads = AuthenticationThreads::spawn(&directory, &settings, callout, &shards);
        let threads = threads.unwrap();
        Self { threads, answers, ahead_ms, clocks, questions, password_file }
    }

    fn ask(&self, client: &Client) -> Authentication {
        assert!(self.threads.queues().try_ask(ShardIndex(0), client.request()).is_none());
        self.answers.recv_timeout(ANSWER_WAIT_MAX).expect("every question has an answer")
    }

    /// Who the client is, and whether somebody was asked over HTTP.
    fn known(&self, client: &Client) -> (Arc<Identity>, bool) {
        let identity = self.ask(client).expect("the client is known");
        (identity, self.questions.try_iter().count() > 0)
    }

    fn stop(self) {
        self.threads.stop();
        let _ = std::fs::remove_file(self.password_file.with_extension("key"));
        std::fs::remove_file(self.password_file).unwrap();
    }
}

fn config(methods: &[AuthMethod], address: SocketAddr, password_file: &Path) -> Box<Config> {
    let environment = Environment::of_this_machine();
    let mut config = match Request::from_command_line(["gateway"], &environment) {
        Request::Run(config) => config,
        other => panic!("{other:?}"),
    };
    config.auth.methods = methods.to_vec();
    config.auth.password_file = Some(password_file.to_path_buf());
    config.auth.http_auth_url = Some(format!("http://{address}/"));
    if methods.contains(&AuthMethod::Jwt) {
        let key = password_file.with_extension("key");
        std::fs::write(&key, SECRET).unwrap();
        config.auth.jwt_key_file = Some(key);
        config.auth.jwt_algorithm = jsonwebtoken::Algorithm::HS256;
    }
    config
}

fn read_question(stream: &TcpStream) -> Value {
    let (mut reader, mut length, mut line) = (BufReader::new(stream), 0, String::new());
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn reply(mut stream: &TcpStream, answer: &Value) {
    let body = answer.to_string();
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length:";
    stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
}

#[derive(Clone, Copy)]
struct Client {
    user: Option<(&'static str, &'static str)>,
    certificate: Option<&'static str>,
    peer: &'static str,
}

const ANNA: Client =
    Client { user: Some(("anna", "pw")), certificate: None, peer: "192.0.2.1:1000" };

impl Client {
    fn request(&self) -> AuthenticationRequest {
        let origin = Origin {
            peer: self.peer.parse().unwrap(),
            transport: TransportKind::Tls,
            server_name: None,
            certificate_identity: self.certificate.map(Box::from),
        };
        AuthenticationRequest {
            connection: ConnectionId { index: 0, generation: 0 },
            origin: Some(origin),
            client_id: "c".into(),
            user_name: self.user.map(|(name, _)| name.into()),
            password: self.user.map(|(_, password)| password.as_bytes().into()),
            client_first: None,
        }
    }
}

/// Allows the certificate `good`, and from one network who has none.
fn by_certificate_and_network(question: &Value) -> Value {
    let is_near = question["peer"].as_str().unwrap().starts_with("192.0.2.1:");
    let is_allowed = match question["certificate"].as_str() {
        Some(name) => name == "good",
        None => is_near,
    };
    json!({"result": if is_allowed { "allow" } else { "deny" }})
}

#[test]
fn what_was_allowed_over_http_is_for_the_same_certificate_and_address_only() {
    let scene = Scene::start(&[AuthMethod::Http], by_certificate_and_network);
    let good = Client { certificate: Some("good"), ..ANNA };
    assert!(scene.known(&good).1);
    assert!(!scene.known(&good).1, "the same is not asked about again");
    assert!(!scene.known(&Client { peer: "192.0.2.1:1001", ..good }).1, "nor from another port");
    let evil = Client { certificate: Some("evil"), ..ANNA };
    assert_eq!(scene.ask(&evil), Err(Refusal::BadCredentials));
    assert!(scene.known(&ANNA).1, "no certificate is not that one");
    let far = Client { peer: "192.0.2.2:1000", ..ANNA };
    assert_eq!(scene.ask(&far), Err(Refusal::BadCredentials));
    scene.stop();
}

#[test]
fn a_remembered_password_does_not_come_before_http() {
    let ignore = |_: &Value| json!({"result": "ignore"});
    let scene = Scene::start(&[AuthMethod::Http, AuthMethod::Password], ignore);
    for _ in 0..3 {
        let (identity, was_asked) = scene.known(&ANNA);
        assert!(matches!(identity.proof, Proof::Password(_)));
        assert!(was_asked, "http is first");
    }
    scene.stop();
}

#[test]
fn a_remembered_password_does_not_come_before_a_certificate() {
    let methods = [AuthMethod::Certificate, AuthMethod::Password];
    let scene = Scene::start(&methods, |_| unreachable!("nobody is asked over HTTP"));
    let (identity, _) = scene.known(&ANNA);
    assert_eq!(identity.user_name.as_deref(), Some("anna"));
    let (again, _) = scene.known(&ANNA);
    assert!(Arc::ptr_eq(&identity, &again), "it is remembered");
    let (identity, _) = scene.known(&Client { certificate: Some("otto"), ..ANNA });
    assert_eq!(identity.user_name.as_deref(), Some("otto"));
    assert_eq!(identity.proof, Proof::Certificate);
    scene.stop();
}

/// Of a client that is allowed without a name: the user of a password, else the certificate's.
#[test]
fn a_certificate_alone_is_asked_about_and_names_the_user() {
    let scene = Scene::start(&[AuthMethod::Http], |_| json!({"result": "allow"}));
    let user_of = |client: &Client| scene.known(client).0.user_name.as_deref().map(str::to_owned);
    let alone = Client { user: None, certificate: Some("otto"), ..ANNA };
    assert_eq!(user_of(&alone).as_deref(), Some("otto"));
    assert_eq!(user_of(&Client { user: Some(("anna", "pw")), ..alone }).as_deref(), Some("anna"));
    let mut claimed = Client { user: Some(("root", "")), ..alone }.request();
    claimed.password = None;
    assert!(scene.threads.queues().try_ask(ShardIndex(0), claimed).is_none());
    let identity = scene.answers.recv_timeout(ANSWER_WAIT_MAX).unwrap().unwrap();
    assert_eq!(identity.user_name.as_deref(), Some("otto"), "a name alone is a claim");
    let nobody = Client { user: None, certificate: None, ..ANNA };
    assert_eq!(scene.ask(&nobody), Err(Refusal::NoCredentials));
    let unnamed = Client { user: None, certificate: Some(""), ..ANNA };
    assert_eq!(scene.ask(&unnamed), Err(Refusal::NoCredentials));
    scene.stop();
}

/// Signs the tokens here.
const SECRET: &str = "not so secret";

#[test]
fn tokens_are_judged_by_the_wall_clock_whenever_it_is_set() {
    let scene = Scene::start(&[AuthMethod::Jwt], |_| unreachable!("nobody is asked over HTTP"));
    let [steady, wall] = &scene.clocks;
    let (start_s, hour_ms) = (START_MS / 1_000, 3_600_000);
    let claims = json!({"sub": "anna", "exp": start_s + 1_800, "nbf": start_s - 1_800});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let knock = || {
        let mut request = ANNA.request();
        request.password = Some(token.as_bytes().into());
        assert!(scene.threads.queues().try_ask(ShardIndex(0), request).is_none());
        scene.answers.recv_timeout(ANSWER_WAIT_MAX).unwrap().map(|identity| identity.expires_at)
    };
    let expires_at = Timestamp(START_MS + hour_ms / 2);
    assert_eq!(knock(), Ok(expires_at));
    for (set_to, answer) in [
        (START_MS + hour_ms, Err(Refusal::BadCredentials)),
        (START_MS - hour_ms, Err(Refusal::BadCredentials)),
        (START_MS, Ok(expires_at)),
    ] {
        wall.store(set_to, Ordering::Relaxed);
        assert_eq!(knock(), answer, "at once");
        // The thread looks once a second, by the other clock.
        steady.fetch_add(1_000, Ordering::Relaxed);
        let apart =
            i64::try_from(set_to).unwrap() - i64::try_from(steady.load(Ordering::Relaxed)).unwrap();
        assert_eq!(scene.ahead_ms.recv_timeout(ANSWER_WAIT_MAX), Ok(apart));
    }
    scene.stop();
}
