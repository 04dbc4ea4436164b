//! Two real processes: a child (this test binary again) owns an app and serves it; the parent is the
//! operator. The child is stopped, killed, of another user, or without a socket.
#![allow(clippy::disallowed_methods)] // tests start processes and plant files

use macula_control::{perform, socket_name, Client, Command, ControlError, Outcome, Patience, Server};
use macula_core::{AppName, Clock, Kind, Kinded, SystemChance, SystemClock, Task};
use macula_store::kv::Threads;
use macula_store::{BackupOptions, Base, Options, Owner, RestoreOptions, Seams};
use rustix::process::{kill_process, waitpid, Pid, Signal, WaitOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Stdio};
use std::sync::Arc;
use std::time::Duration;

const ROLE: &str = "MACULA_CONTROL_TEST_ROLE";
const DIR: &str = "MACULA_CONTROL_TEST_DIR";
const NOBODY: u32 = 65_534;
const APP: &str = "shop";

fn base(root: &Path, socket: Option<String>) -> Arc<Base> {
    base_with(root, socket, Threads::start(2, 1, Arc::new(SystemClock)).expect("threads"))
}

fn base_with(root: &Path, socket: Option<String>, kv_threads: Threads) -> Arc<Base> {
    let options = Options {
        sqlite: Default::default(),
        kv: macula_store::kv::Options { cache_bytes: 1 << 20, ..Default::default() },
        usage_interval: Duration::from_secs(60),
        owner: Owner { pid: std::process::id(), socket },
    };
    let seams = Seams { clock: Arc::new(SystemClock), chance: Arc::new(SystemChance), kv_threads };
    Base::open(root, options, seams).expect("a base")
}

fn app_name() -> AppName {
    AppName::new(APP).expect("good")
}

/// Not a test of its own: what the child processes run.
#[test]
fn child() {
    let (Ok(role), Ok(dir)) = (std::env::var(ROLE), std::env::var(DIR)) else { return };
    let dir = PathBuf::from(dir);
    match role.as_str() {
        "owner" => own(&dir, Some(socket_name(std::process::id(), &SystemChance))),
        "mute" => own(&dir, None),
        "stranger" => {
            let mut heard = Vec::new();
            let stream = UnixStream::connect(&dir);
            stream.expect("connected").read_to_end(&mut heard).expect("until the end");
            say(&String::from_utf8_lossy(&heard[6..]));
        }
        "locked-out" => {
            let result = Client::connect(dir.parent().expect("run"), &file_name(&dir), Patience::default());
            say(&format!("{:?}", result.map(|_| ()).map_err(|error| error.kind())));
        }
        other => panic!("role={other}"),
    }
}

fn own(root: &Path, socket: Option<String>) {
    let threads = Threads::start(2, 1, Arc::new(SystemClock)).expect("threads");
    let base = base_with(root, socket.clone(), threads.clone());
    let app = match base.app(&app_name()) {
        Err(error) if error.kind() == Kind::Locked => return say("taken"),
        app => app.expect("free"),
    };
    std::fs::write(app.path().join("uploads/first"), b"one").expect("written");
    let server = socket.as_ref().map(|name| Server::start(base.clone(), &root.join("run"), name).expect("started"));
    say(&format!("ready {}", socket.unwrap_or_default()));
    // until the parent closes our input or kills us
    std::io::stdin().read_to_end(&mut Vec::new()).expect("readable");
    if let Some(server) = server {
        server.stop();
    }
    base.close();
    threads.stop();
    let left = || {
        let names = std::fs::read_dir("/proc/self/task").expect("there").flatten();
        let names = names.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("macula")).collect::<Vec<_>>()
    };
    // one that was joined is still listed until the kernel has cleared it away
    (0..200).take_while(|_| !left().is_empty()).for_each(|_| SystemClock.sleep(Duration::from_millis(5)));
    let left = left();
    say(&format!("left {left:?}"));
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("named").to_str().expect("text").to_owned()
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    out.write_all(format!("\nchild says: {line}\n").as_bytes()).expect("heard");
    out.flush().expect("heard");
}

struct Child {
    process: std::process::Child,
    out: BufReader<ChildStdout>,
}

impl Child {
    fn start(role: &str, dir: &Path, uid: Option<u32>) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this binary"));
        command.args(["child", "--exact", "--nocapture"]).env(ROLE, role).env(DIR, dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        let mut process = command.spawn().expect("started");
        let out = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, out }
    }

    /// An owner that is ready.
    fn owner(dir: &Path) -> (Self, String) {
        let mut child = Self::start("owner", dir, None);
        let ready = child.hear();
        let socket = ready.strip_prefix("ready ").expect("ready").to_owned();
        (child, socket)
    }

    fn hear(&mut self) -> String {
        let mut lines = (&mut self.out).lines().map(|line| line.expect("text"));
        let line = lines.find_map(|line| line.strip_prefix("child says: ").map(str::to_owned));
        line.expect("the child says something")
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a pid");
        kill_process(pid, signal).expect("ours");
        if signal == Signal::STOP {
            let status = waitpid(Some(pid), WaitOptions::UNTRACED).expect("ours").expect("waited");
            assert!(status.1.stopped(), "{status:?}");
        }
    }

    fn kill(&mut self) {
        self.process.kill().expect("ours");
        self.process.wait().expect("ours");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("tempdir")
}

fn ask(base: &Arc<Base>, command: Command) -> Result<Outcome, ControlError> {
    perform(base, &command, Some(Duration::from_secs(60)), &Task::quiet())
}

fn backup(base: &Arc<Base>) -> macula_store::BackupInfo {
    match ask(base, Command::Backup { app: APP.into(), options: BackupOptions::default() }) {
        Ok(Outcome::Backup(info)) => info,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_operator_reaches_the_app_of_another_process() {
    let dir = temp();
    let (mut child, socket) = Child::owner(dir.path());
    let base = base(dir.path(), None);
    assert_eq!(base.app(&app_name()).expect_err("owned").kind(), Kind::Locked);
    let client = Client::connect(&dir.path().join("run"), &socket, Patience::default()).expect("connected");
    assert_eq!(client.call(&Command::Ping, &Task::quiet()).expect("pong"), Outcome::Pong { pid: child.pid() });
    let usage = ask(&base, Command::Usage { app: APP.into(), fresh: true }).expect("usage");
    let Outcome::Usage(usage) = usage else { panic!("{usage:?}") };
    assert!(usage.parts["uploads"] >= 3, "{usage:?}");
    let made = backup(&base);
    assert_eq!(made.verified, Some(true));
    let first = dir.path().join("apps").join(APP).join("uploads/first");
    std::fs::write(&first, b"changed").expect("written");
    let restore = Command::Restore { app: APP.into(), path: made.path.clone(), options: RestoreOptions::default() };
    let Ok(Outcome::Restored(restored)) = ask(&base, restore) else { panic!("not restored") };
    assert!(restored.verified);
    assert_eq!(std::fs::read(&first).expect("restored"), b"one");
    let Ok(Outcome::Backups(listed)) = ask(&base, Command::Backups { app: APP.into() }) else { panic!("no list") };
    assert_eq!(listed.iter().map(|b| &b.name).collect::<Vec<_>>(), [&made.name]);
    let dest = dir.path().join("a.tar.zst");
    let archive = |dest: &Path| Command::Archive { app: APP.into(), dest: dest.into(), options: Default::default() };
    ask(&base, archive(&dest)).expect("archived");
    assert_eq!(ask(&base, archive(&dest)).expect_err("there").kind(), Kind::Exists);
    assert_eq!(ask(&base, archive(Path::new("b.tar.zst"))).expect_err("relative").kind(), Kind::Invalid);
    assert_eq!(ask(&base, Command::Verify { app: APP.into() }).expect("verified"), Outcome::Verified);
    let nothing = Command::Restore { app: APP.into(), path: "/no/such".into(), options: Default::default() };
    assert_eq!(ask(&base, nothing).expect_err("nothing there").kind(), Kind::NotFound);
    let bad = ask(&base, Command::Usage { app: "../shop".into(), fresh: false });
    assert_eq!(bad.expect_err("no name").kind(), Kind::Invalid);
    let unopened = Client::connect(&dir.path().join("run"), &socket, Patience::default()).expect("connected");
    let unopened = unopened.call(&Command::Verify { app: "other".into() }, &Task::quiet());
    assert_eq!(unopened.expect_err("never opened for a stranger").kind(), Kind::Closed);
    assert!(!dir.path().join("apps/other").exists());
    drop(child.process.stdin.take());
    assert_eq!(child.hear(), "left []");
}

#[test]
fn a_stopped_owner_is_a_timeout_and_goes_on_when_continued() {
    let dir = temp();
    let (child, socket) = Child::owner(dir.path());
    let base = base(dir.path(), None);
    child.signal(Signal::STOP);
    let command = Command::Usage { app: APP.into(), fresh: false };
    let error = perform(&base, &command, Some(Duration::from_millis(500)), &Task::quiet()).expect_err("hangs");
    assert_eq!(error.kind(), Kind::Timeout);
    assert!(error.to_string().contains(&child.pid().to_string()), "{error}");
    let patience = Patience { silence_max: Duration::from_millis(300), deadline: None };
    // whatever fills the queue of connections, waiting has its bound
    for _ in 0..80 {
        let patience = Patience { silence_max: Duration::from_millis(1), ..patience };
        let hung = Client::connect(&dir.path().join("run"), &socket, patience).expect_err("hangs");
        assert_eq!(hung.kind(), Kind::Timeout);
    }
    let full = Client::connect(&dir.path().join("run"), &socket, patience).expect_err("hangs");
    assert_eq!(full.kind(), Kind::Timeout);
    child.signal(Signal::CONT);
    loop {
        // the queue of those who gave up is worked off first
        match ask(&base, command.clone()) {
            Ok(Outcome::Usage(_)) => break,
            Err(error) if error.kind() == Kind::Busy => std::thread::sleep(Duration::from_millis(10)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_killed_owner_is_taken_over_from() {
    let dir = temp();
    let (mut child, socket) = Child::owner(dir.path());
    let base = base(dir.path(), None);
    child.kill();
    assert!(dir.path().join("run").join(&socket).exists(), "killed, so its socket stays behind");
    let gone = Client::connect(&dir.path().join("run"), &socket, Patience::default()).expect_err("stale");
    assert!(matches!(gone, ControlError::Gone(_)), "{gone:?}");
    assert_eq!(backup(&base).verified, Some(true));
    assert!(base.app_if_open(&app_name()).is_some(), "carried out here");
}

/// Owners are killed, started and taken over from at any moment between our finding a lock and our
/// reaching a socket.
#[test]
fn owners_that_come_and_go_are_taken_over_from_or_named() {
    let dir = temp();
    // asking about an app does not make one
    base(dir.path(), None).ensure_app_dirs(&app_name()).expect("directories");
    let commands = std::thread::spawn({
        let root = dir.path().to_owned();
        move || {
            for _ in 0..60 {
                let base = base(&root, None);
                let result = ask(&base, Command::Usage { app: APP.into(), fresh: true });
                match result {
                    Ok(Outcome::Usage(_)) => {}
                    // it was killed with our command in hand, or all of our tries fell between two owners
                    Err(error) => {
                        assert!(matches!(error.kind(), Kind::UnknownResult | Kind::Locked), "{error:?}");
                    }
                    other => panic!("{other:?}"),
                }
                base.close();
            }
        }
    });
    for _ in 0..8 {
        let mut child = Child::start("owner", dir.path(), None);
        // it may find the app owned by the operator, and then ends by itself
        let mut line = String::new();
        while child.out.read_line(&mut line).is_ok_and(|len| len > 0) && !line.contains("child says") {}
        child.kill();
    }
    commands.join().expect("no panic");
}

#[test]
fn an_owner_without_a_socket_is_named() {
    let dir = temp();
    let mut child = Child::start("mute", dir.path(), None);
    assert_eq!(child.hear(), "ready ");
    let base = base(dir.path(), None);
    let error = ask(&base, Command::Verify { app: APP.into() }).expect_err("owned");
    assert_eq!(error.kind(), Kind::Locked);
    assert!(error.to_string().contains(&format!("os_pid={}", child.pid())), "{error}");
    assert!(matches!(ask(&base, Command::Backups { app: APP.into() }), Ok(Outcome::Backups(_))));
    assert!(matches!(ask(&base, Command::Ping), Ok(Outcome::Pong { pid }) if pid == std::process::id()));
}

#[test]
fn another_user_is_refused_on_either_side() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be two users");
        return;
    }
    let dir = temp();
    let (_child, socket) = Child::owner(dir.path());
    let run = dir.path().join("run");
    let path = run.join(&socket);
    let chmod = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("ours");
    chmod(dir.path(), 0o755);
    assert_eq!(Child::start("locked-out", &path, Some(NOBODY)).hear(), "Err(Permission)");
    // even with every door open, the kernel says who knocks
    chmod(&run, 0o755);
    chmod(&path, 0o666);
    let told = Child::start("stranger", &path, Some(NOBODY)).hear();
    assert!(told.contains(r#""kind":"permission""#) && told.contains("uid=65534, ours=0"), "{told}");
    assert_eq!(Child::start("locked-out", &path, Some(NOBODY)).hear(), "Err(Permission)");

    let theirs = temp();
    std::os::unix::fs::chown(theirs.path(), Some(NOBODY), Some(NOBODY)).expect("root");
    let mut owner = Child::start("owner", theirs.path(), Some(NOBODY));
    let socket = owner.hear().strip_prefix("ready ").expect("ready").to_owned();
    let refused = Client::connect(&theirs.path().join("run"), &socket, Patience::default()).expect_err("not ours");
    assert!(matches!(refused, ControlError::Stranger { theirs: NOBODY, ours: 0 }), "{refused:?}");
    let base = base(theirs.path(), None);
    let refused = ask(&base, Command::Verify { app: APP.into() }).expect_err("not ours");
    assert_eq!(refused.kind(), Kind::Permission);
    assert!(refused.hint().expect("a hint").contains("uid=65534"));
}

#[test]
fn a_base_path_of_200_bytes_works() {
    let dir = temp();
    let root = dir.path().join("x".repeat(200));
    let (child, socket) = Child::owner(&root);
    assert!(root.join("run").join(&socket).as_os_str().len() > 200);
    let base = base(&root, None);
    let made = backup(&base);
    assert!(made.path.starts_with(&root));
    assert!(base.app_if_open(&app_name()).is_none(), "carried out by the owner");
    drop(child);
}
