//! The socket under clients that are slow, hostile, of another version, or gone; and servers likewise.
#![allow(clippy::disallowed_methods)] // tests plant files and look at threads directly

use macula_control::{socket_name, Client, Command, ControlError, Handler, Outcome, Patience, Server};
use macula_core::{Cancel, Kind, Kinded, Progress, SystemChance, Task};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const VERSION: u8 = 1;
const REQUEST: u8 = 1;
const PROGRESS: u8 = 2;
const REPLY: u8 = 3;
const CANCEL: u8 = 4;
const HELLO: u8 = 5;

/// Does what the app's name says, and tells the test when it has begun and how it ended.
struct Actor {
    events: Mutex<Sender<&'static str>>,
}

impl Actor {
    fn tell(&self, event: &'static str) {
        // the test may have seen enough and gone
        let _ = self.events.lock().expect("not poisoned").send(event);
    }

    fn until_cancelled(&self, task: &Task) -> Result<Outcome, ControlError> {
        while !task.cancel.is_cancelled() {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.tell("cancelled");
        Err(ControlError::Cancelled)
    }
}

impl Handler for Actor {
    fn handle(&self, command: &Command, task: &Task) -> Result<Outcome, ControlError> {
        let act = command.app().unwrap_or_default();
        if !act.is_empty() {
            self.tell("began");
        }
        match act {
            "wait" => self.until_cancelled(task),
            "panic" => panic!("on purpose"),
            "silent" => {
                std::thread::sleep(Duration::from_millis(2500));
                Ok(Outcome::Verified)
            }
            "progress" => {
                task.report(Progress { entries_done: 3, bytes_done: 5, bytes_total: 7 });
                self.until_cancelled(task)
            }
            "backups-8m" => Ok(Outcome::Backups(vec![backup(8 << 20)])),
            "backups-17m" => Ok(Outcome::Backups(vec![backup(17 << 20)])),
            "not-text" => {
                use std::os::unix::ffi::OsStrExt;
                let mut info = backup(1);
                info.path = PathBuf::from(std::ffi::OsStr::from_bytes(b"/\xff"));
                Ok(Outcome::Backup(info))
            }
            "long-error" => Err(ControlError::NotOwned("\u{fc}".repeat(9000))),
            _ => Ok(Outcome::Pong { pid: std::process::id() }),
        }
    }
}

fn backup(name_len: usize) -> macula_store::BackupInfo {
    macula_store::BackupInfo {
        name: "n".repeat(name_len),
        path: "/b".into(),
        bytes: 1,
        at_us: 2,
        verified: None,
        entries: 3,
        bytes_in: 4,
        changed: 0,
        left_out: vec![],
    }
}

struct Stage {
    dir: tempfile::TempDir,
    name: String,
    server: Server,
    events: Receiver<&'static str>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let name = socket_name(std::process::id(), &SystemChance);
        let (sender, events) = channel();
        let server = Server::serve(Actor { events: Mutex::new(sender) }, dir.path(), &name).expect("started");
        Self { dir, name, server, events }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    fn connect(&self) -> Result<Client, ControlError> {
        Client::connect(self.dir.path(), &self.name, Patience::default())
    }

    fn call(&self, act: &str, task: &Task) -> Result<Outcome, ControlError> {
        self.connect()?.call(&Command::Verify { app: act.into() }, task)
    }

    fn ping(&self) -> Result<Outcome, ControlError> {
        self.connect()?.call(&Command::Ping, &Task::quiet())
    }

    /// Ping until the server has room.
    fn ping_patiently(&self) {
        loop {
            match self.ping() {
                Err(error) if error.kind() == Kind::Busy => std::thread::sleep(Duration::from_millis(20)),
                result => return assert_eq!(result.expect("pong"), Outcome::Pong { pid: std::process::id() }),
            }
        }
    }

    /// A connection that has read its greeting.
    fn raw(&self) -> UnixStream {
        let mut raw = UnixStream::connect(self.path()).expect("connected");
        raw.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        let (of, _) = read_frame(&mut raw).expect("greeted");
        assert_eq!(of, HELLO);
        raw
    }

    fn event(&self) -> &'static str {
        self.events.recv_timeout(Duration::from_secs(20)).expect("an event")
    }
}

fn frame(version: u8, of: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..], &[version, of], body].concat()
}

fn read_frame(from: &mut impl Read) -> std::io::Result<(u8, String)> {
    let mut header = [0; 6];
    from.read_exact(&mut header)?;
    assert_eq!(header[4], VERSION);
    let mut body = vec![0; u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize];
    from.read_exact(&mut body)?;
    Ok((header[5], String::from_utf8(body).expect("text")))
}

/// What the server says to `bytes`: one reply, then the end.
fn answer(stage: &Stage, bytes: &[u8]) -> String {
    let mut raw = stage.raw();
    raw.write_all(bytes).expect("sent");
    let (of, body) = read_frame(&mut raw).expect("a reply");
    assert_eq!(of, REPLY, "{body}");
    // closing with unread bytes shows as a reset instead of an end
    let rest = raw.read(&mut [0; 1]);
    assert!(matches!(&rest, Ok(0) | Err(_)), "{rest:?}");
    body
}

#[test]
fn a_conversation_is_these_bytes() {
    let stage = Stage::new();
    let mut raw = UnixStream::connect(stage.path()).expect("connected");
    let pid = std::process::id();
    raw.write_all(b"\x06\0\0\0\x01\x01\"ping\"").expect("sent");
    let mut all = Vec::new();
    raw.read_to_end(&mut all).expect("until the end");
    let hello = frame(VERSION, HELLO, format!("{{\"pid\":{pid}}}").as_bytes());
    let reply = frame(VERSION, REPLY, format!("{{\"ok\":{{\"pong\":{{\"pid\":{pid}}}}}}}").as_bytes());
    assert_eq!(all, [hello, reply].concat());
}

#[test]
fn only_this_user_can_reach_the_socket_and_stop_removes_it() {
    let stage = Stage::new();
    let mode = |path: &Path| path.symlink_metadata().expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode(stage.dir.path()), mode(&stage.path())), (0o700, 0o600));
    stage.server.stop();
    assert!(!stage.path().exists());
    assert!(matches!(stage.connect(), Err(ControlError::Gone(_))));
    stage.server.stop();
}

#[test]
fn an_open_directory_is_closed_and_another_users_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let run = dir.path().join("run");
    std::fs::create_dir(&run).expect("created");
    std::fs::set_permissions(&run, PermissionsExt::from_mode(0o755)).expect("opened");
    let (events, _) = channel();
    let actor = Actor { events: Mutex::new(events) };
    let _server = Server::serve(actor, &run, "ctl-a.sock").expect("started");
    assert_eq!(run.metadata().expect("there").permissions().mode() & 0o777, 0o700);
}

#[test]
fn hostile_frames_get_one_error_and_harm_nobody() {
    let stage = Stage::new();
    let head = |len: u32, version: u8, of: u8| [&len.to_le_bytes()[..], &[version, of]].concat();
    let too_long = answer(&stage, &head(65_537, VERSION, REQUEST));
    assert!(too_long.contains(r#""kind":"too_large""#) && too_long.contains("len_max=65536"), "{too_long}");
    assert!(answer(&stage, &head(u32::MAX, VERSION, REQUEST)).contains("too_large"));
    let version = answer(&stage, &head(6, 2, REQUEST));
    assert!(version.contains(r#""kind":"unsupported""#), "{version}");
    assert!(version.contains("theirs=2, ours=1"), "{version}");
    for of in [0, PROGRESS, REPLY, CANCEL, HELLO, 6, 255] {
        let refused = answer(&stage, &frame(VERSION, of, b"{}"));
        assert!(refused.contains(r#""kind":"invalid""#), "{of}: {refused}");
    }
    for body in [
        &b""[..],
        b"{",
        b"\xff\xfe",
        b"\"frob\"",
        b"{\"verify\":{}}",
        b"{\"verify\":{\"app\":7}}",
        b"\"ping\" x",
        &[b'['; 60_000],
    ] {
        let refused = answer(&stage, &frame(VERSION, REQUEST, body));
        assert!(refused.contains(r#""kind":"invalid""#), "{refused}");
    }
    assert!(answer(&stage, b"GET / HTTP/1.1\r\n\r\n").contains("theirs=47"));
    stage.ping_patiently();
}

#[test]
fn random_bytes_never_do_more_than_end_their_connection() {
    let stage = Stage::new();
    let seed = u64::from(std::process::id());
    eprintln!("seed={seed}");
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..200 {
        let mut bytes = frame(VERSION, REQUEST, br#"{"verify":{"app":"x"}}"#);
        for _ in 0..=random() % 3 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        let mut raw = loop {
            let mut raw = UnixStream::connect(stage.path()).expect("connected");
            match read_frame(&mut raw) {
                Ok((HELLO, _)) => break raw,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        raw.write_all(&bytes).expect("sent");
        raw.shutdown(std::net::Shutdown::Write).expect("open");
        let mut rest = Vec::new();
        raw.read_to_end(&mut rest).ok();
    }
    stage.ping_patiently();
}

/// One byte a second would hold a thread for ever if each byte were a new lease of patience.
#[test]
fn a_slow_request_is_cut_off() {
    let stage = Stage::new();
    let mut raw = stage.raw();
    let mut sender = raw.try_clone().expect("a descriptor");
    let slow = std::thread::spawn(move || {
        for byte in frame(VERSION, REQUEST, &[b' '; 1000]) {
            if sender.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let (of, body) = read_frame(&mut raw).expect("a reply");
    assert_eq!(of, REPLY);
    assert!(body.contains("no whole request within 5s"), "{body}");
    drop(raw);
    slow.join().expect("refused in time");
}

#[test]
fn a_hundred_connections_left_open_are_got_rid_of() {
    let stage = Stage::new();
    let idle: Vec<_> = (0..100).map(|_| UnixStream::connect(stage.path()).expect("connected")).collect();
    stage.ping_patiently();
    drop(idle);
    for _ in 0..100 {
        drop(UnixStream::connect(stage.path()).expect("connected"));
    }
    stage.ping_patiently();
}

#[test]
fn the_ninth_command_is_told_that_the_server_is_busy() {
    let stage = Stage::new();
    let cancel = Cancel::new();
    std::thread::scope(|threads| {
        for _ in 0..8 {
            let task = Task::new(cancel.clone(), |_| {});
            let stage = (stage.dir.path().to_owned(), stage.name.clone());
            threads.spawn(move || {
                let client = Client::connect(&stage.0, &stage.1, Patience::default()).expect("room");
                client.call(&Command::Verify { app: "wait".into() }, &task)
            });
        }
        (0..8).for_each(|_| assert_eq!(stage.event(), "began"));
        assert_eq!(stage.ping().expect_err("no room").kind(), Kind::Busy);
        cancel.cancel();
    });
    stage.ping_patiently();
}

#[test]
fn a_client_that_vanishes_cancels_its_command() {
    let stage = Stage::new();
    let mut raw = stage.raw();
    raw.write_all(&frame(VERSION, REQUEST, br#"{"verify":{"app":"wait"}}"#)).expect("sent");
    assert_eq!(stage.event(), "began");
    drop(raw);
    assert_eq!(stage.event(), "cancelled");
}

#[test]
fn nonsense_during_a_command_cancels_it() {
    let stage = Stage::new();
    let mut raw = stage.raw();
    raw.write_all(&frame(VERSION, REQUEST, br#"{"verify":{"app":"wait"}}"#)).expect("sent");
    assert_eq!(stage.event(), "began");
    raw.write_all(&[0xee; 100]).expect("sent");
    assert_eq!(stage.event(), "cancelled");
}

#[test]
fn cancel_and_progress_pass_through() {
    let stage = Stage::new();
    let cancel = Cancel::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let task = {
        let (cancel, seen) = (cancel.clone(), seen.clone());
        Task::new(cancel.clone(), move |at| {
            seen.lock().expect("not poisoned").push(at);
            cancel.cancel();
        })
    };
    let error = stage.call("progress", &task).expect_err("cancelled");
    assert_eq!(error.kind(), Kind::Cancelled);
    assert!(matches!(error, ControlError::Remote { .. }), "the owner says so: {error:?}");
    let told = Progress { entries_done: 3, bytes_done: 5, bytes_total: 7 };
    assert_eq!(*seen.lock().expect("not poisoned"), [told]);
}

#[test]
fn a_panic_is_answered_and_costs_nothing_else() {
    let stage = Stage::new();
    let error = stage.call("panic", &Task::quiet()).expect_err("panicked");
    assert_eq!(error.kind(), Kind::Internal);
    assert!(error.to_string().contains("on purpose"), "{error}");
    stage.ping_patiently();
}

#[test]
fn a_long_command_is_told_from_a_hung_process() {
    let stage = Stage::new();
    let patience = Patience { silence_max: Duration::from_millis(2000), deadline: None };
    let client = Client::connect(stage.dir.path(), &stage.name, patience).expect("connected");
    let outcome = client.call(&Command::Verify { app: "silent".into() }, &Task::quiet());
    assert_eq!(outcome.expect("signs of life came"), Outcome::Verified);
}

#[test]
fn a_deadline_ends_the_call_and_cancels_the_command() {
    let stage = Stage::new();
    let patience = Patience { deadline: Some(Duration::from_millis(300)), ..Patience::default() };
    let client = Client::connect(stage.dir.path(), &stage.name, patience).expect("connected");
    let error = client.call(&Command::Verify { app: "wait".into() }, &Task::quiet()).expect_err("too long");
    assert_eq!(error.kind(), Kind::Timeout);
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert_eq!((stage.event(), stage.event()), ("began", "cancelled"));
}

#[test]
fn a_client_that_does_not_read_loses_its_progress_and_not_its_command() {
    let stage = Stage::new();
    let mut raw = stage.raw();
    raw.write_all(&frame(VERSION, REQUEST, br#"{"verify":{"app":"backups-8m"}}"#)).expect("sent");
    assert_eq!(stage.event(), "began");
    // 8 MiB do not fit the socket's buffer: the reply waits for us while others are served
    stage.ping_patiently();
    let body = loop {
        match read_frame(&mut raw).expect("a frame") {
            (REPLY, body) => break body,
            (of, _) => assert_eq!(of, PROGRESS),
        }
    };
    assert!(body.len() > 8 << 20 && body.starts_with(r#"{"ok":{"backups":[{"#));
}

#[test]
fn an_outcome_that_does_not_fit_is_an_error_that_says_so() {
    let stage = Stage::new();
    for act in ["backups-17m", "not-text"] {
        let error = stage.call(act, &Task::quiet()).expect_err("does not fit");
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    }
    match stage.call("backups-8m", &Task::quiet()).expect("fits") {
        Outcome::Backups(backups) => assert_eq!(backups[0].name.len(), 8 << 20),
        other => panic!("{other:?}"),
    }
    let long = stage.call("long-error", &Task::quiet()).expect_err("an error with a long text").to_string();
    assert!(long.len() < 5000 && long.ends_with("[...]"), "{}", long.len());
}

#[test]
fn stopping_cancels_and_answers_what_runs() {
    let stage = Stage::new();
    let client = stage.connect().expect("connected");
    let waiting = std::thread::spawn(move || client.call(&Command::Verify { app: "wait".into() }, &Task::quiet()));
    assert_eq!(stage.event(), "began");
    let mut idle = stage.raw();
    stage.server.stop();
    assert_eq!(waiting.join().expect("no panic").expect_err("cancelled").kind(), Kind::Cancelled);
    let (of, body) = read_frame(&mut idle).expect("told as well");
    assert_eq!(of, REPLY);
    assert!(body.contains(r#""kind":"closed""#), "{body}");
}

#[test]
fn a_base_path_longer_than_a_socket_address_works() {
    let dir = tempfile::tempdir().expect("tempdir");
    let run = dir.path().join("d".repeat(200)).join("e".repeat(200)).join("run");
    std::fs::create_dir_all(&run).expect("created");
    let name = socket_name(1, &SystemChance);
    let (events, _) = channel();
    let server = Server::serve(Actor { events: Mutex::new(events) }, &run, &name).expect("started");
    let client = Client::connect(&run, &name, Patience::default()).expect("connected");
    assert_eq!(client.pid(), Some(std::process::id()));
    client.call(&Command::Ping, &Task::quiet()).expect("pong");
    server.stop();
    assert_eq!(std::fs::read_dir(&run).expect("there").count(), 0);
}

#[test]
fn names_are_short_and_of_one_process() {
    let names: std::collections::HashSet<_> = (0..1000).map(|_| socket_name(7, &SystemChance)).collect();
    assert_eq!(names.len(), 1000);
    assert!(names.iter().all(|name| name.len() == "ctl-0123456789abcdef.sock".len()));
}

#[test]
fn a_planted_symlink_is_followed_by_neither_side() {
    let stage = Stage::new();
    std::os::unix::fs::symlink(stage.path(), stage.dir.path().join("ctl-link.sock")).expect("planted");
    let patience = Patience::default();
    let refused = Client::connect(stage.dir.path(), "ctl-link.sock", patience).expect_err("a symlink");
    assert_eq!(refused.kind(), Kind::Permission, "{refused}");
    let elsewhere = stage.dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, stage.dir.path().join("ctl-new.sock")).expect("planted");
    let (events, _) = channel();
    let refused = Server::serve(Actor { events: Mutex::new(events) }, stage.dir.path(), "ctl-new.sock");
    assert!(refused.is_err() && !elsewhere.exists());
    for name in ["", ".", "..", "../run/ctl-x.sock", "a/b", "a\0b"] {
        let refused = Client::connect(stage.dir.path(), name, patience).expect_err("not a name");
        assert_eq!(refused.kind(), Kind::Permission, "{name:?}");
    }
    std::fs::write(stage.dir.path().join("ctl-file.sock"), b"").expect("planted");
    let refused = Client::connect(stage.dir.path(), "ctl-file.sock", patience).expect_err("a file");
    assert_eq!(refused.kind(), Kind::Permission);
}

#[test]
fn sockets_of_the_dead_are_swept_and_others_left_alone() {
    let stage = Stage::new();
    let plant = |name: &str| {
        let path = stage.dir.path().join(name);
        (UnixListener::bind(&path).expect("bound"), path)
    };
    let (dead, dead_path) = plant("ctl-dead.sock");
    let (_alive, alive_path) = plant("ctl-alive.sock");
    let (young, young_path) = plant("ctl-young.sock");
    let (other, other_path) = plant("other.sock");
    drop((dead, young, other));
    let old = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
    };
    for path in [&dead_path, &alive_path, &other_path] {
        rustix::fs::utimensat(rustix::fs::CWD, path, &old, rustix::fs::AtFlags::empty()).expect("aged");
    }
    let (events, _) = channel();
    let _server = Server::serve(Actor { events: Mutex::new(events) }, stage.dir.path(), "ctl-b.sock").expect("started");
    assert!(!dead_path.exists());
    assert!(alive_path.exists() && young_path.exists() && other_path.exists() && stage.path().exists());
}

/// A server of our own making, which says `bytes` to whoever comes and then does nothing.
fn false_server(bytes: Vec<u8>) -> (tempfile::TempDir, std::thread::JoinHandle<UnixStream>) {
    let dir = tempfile::tempdir().expect("tempdir");
    let listener = UnixListener::bind(dir.path().join("ctl-false.sock")).expect("bound");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody");
        stream.write_all(&bytes).expect("sent");
        stream
    });
    (dir, thread)
}

fn call_false_server(bytes: Vec<u8>) -> ControlError {
    let (dir, thread) = false_server(bytes);
    let patience = Patience { silence_max: Duration::from_millis(500), deadline: None };
    let result = Client::connect(dir.path(), "ctl-false.sock", patience)
        .and_then(|client| client.call(&Command::Ping, &Task::quiet()));
    drop(thread.join().expect("no panic"));
    result.expect_err("a false server")
}

#[test]
fn a_client_is_not_taken_in_by_a_false_server() {
    let hello = frame(VERSION, HELLO, b"{\"pid\":1}");
    let after = |bytes: &[u8]| [&hello[..], bytes].concat();
    let newer = call_false_server(frame(2, HELLO, b"in words of version two"));
    assert_eq!(newer.kind(), Kind::Unsupported);
    assert!(newer.to_string().contains("theirs=2, ours=1"), "{newer}");
    assert_eq!(call_false_server(vec![]).kind(), Kind::Timeout);
    assert_eq!(call_false_server(hello.clone()).kind(), Kind::Timeout);
    assert_eq!(call_false_server(hello[..7].to_vec()).kind(), Kind::Timeout);
    assert_eq!(call_false_server(b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec()).kind(), Kind::Unsupported);
    assert_eq!(call_false_server(frame(VERSION, PROGRESS, b"{}")).kind(), Kind::Invalid);
    assert_eq!(call_false_server(frame(VERSION, HELLO, b"{}")).kind(), Kind::Invalid);
    assert_eq!(call_false_server(after(&frame(VERSION, REPLY, b"{}"))).kind(), Kind::Invalid);
    assert_eq!(call_false_server(frame(VERSION, REPLY, br#"{"ok":"verified"}"#)).kind(), Kind::Invalid);
    let mut long = frame(VERSION, REPLY, b"");
    long[..4].copy_from_slice(&(16u32 << 20 | 1).to_le_bytes());
    assert_eq!(call_false_server(after(&long)).kind(), Kind::TooLarge);
    let unknown = br#"{"error":{"kind":"of_later","message":"m","hint":null}}"#;
    let unknown = call_false_server(after(&frame(VERSION, REPLY, unknown)));
    assert_eq!(unknown.kind(), Kind::Internal);
    assert!(unknown.to_string().contains("of_later"), "{unknown}");
}

#[test]
fn an_owner_that_ends_during_a_command_leaves_an_unknown_result() {
    let (dir, thread) = false_server(frame(VERSION, HELLO, b"{\"pid\":42}"));
    let client = Client::connect(dir.path(), "ctl-false.sock", Patience::default()).expect("greeted");
    let mut stream = thread.join().expect("no panic");
    let call = std::thread::spawn(move || client.call(&Command::Ping, &Task::quiet()));
    assert_eq!(read_frame(&mut stream).expect("the request"), (REQUEST, "\"ping\"".to_owned()));
    drop(stream);
    let error = call.join().expect("no panic").expect_err("it ended");
    assert_eq!(error.kind(), Kind::UnknownResult);
    assert!(error.to_string().contains("os_pid=42"), "{error}");
}

#[test]
fn requests_that_json_cannot_hold_are_refused_before_they_leave() {
    use std::os::unix::ffi::OsStrExt;
    let stage = Stage::new();
    for dest in [PathBuf::from(std::ffi::OsStr::from_bytes(b"/\xff")), PathBuf::from("/x".repeat(40_000))] {
        let command = Command::Archive { app: "a".into(), dest, options: Default::default() };
        let error = stage.connect().expect("connected").call(&command, &Task::quiet()).expect_err("refused");
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    }
}
