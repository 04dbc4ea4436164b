//! The side of who asks: one connection, one command.
//!
//! Invariant: a call ends by its deadline, and without one as soon as the other process has been
//! silent for longer than allowed, whatever state that process is in. A process that works on the
//! command is never silent for longer than a second.

use crate::command::{Hello, Reply, Told};
use crate::frame::{Assembler, Frame, Type};
use crate::link::{now, Link, Read, Sent};
use crate::place::Place;
use crate::{Command, ControlError, Outcome};
use macula_core::{Progress, Task};
use std::path::Path;
use std::time::Duration;

/// How often a call looks whether its caller has cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// How long to wait for another process.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest time without a sign of life.
    pub silence_max: Duration,
    /// Longest time in all, from connecting to the outcome; `None`: as long as there are signs of life.
    pub deadline: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { silence_max: Duration::from_secs(10), deadline: None }
    }
}

/// A connection to the process that serves a control socket.
#[derive(Debug)]
pub struct Client {
    link: Link,
    frames: Assembler,
    pid: Option<u32>,
    silence_max: Duration,
    ends_at: Option<Duration>,
}

impl Client {
    /// Connect to `run_dir/socket_name` and wait for the other side's greeting.
    ///
    /// # Errors
    /// [`ControlError::Gone`] when nobody listens (nothing was asked then), [`ControlError::Timeout`]
    /// when the process hangs, [`ControlError::Version`], [`ControlError::Stranger`], and
    /// [`ControlError::Remote`] when it refuses.
    pub fn connect(run_dir: &Path, socket_name: &str, patience: Patience) -> Result<Self, ControlError> {
        let (silence_max, started_at) = (patience.silence_max, now());
        let ends_at = patience.deadline.map(|deadline| started_at + deadline);
        let wait = patience.deadline.map_or(silence_max, |deadline| silence_max.min(deadline));
        let link = Place::open(run_dir, socket_name)?.connect(wait.max(Duration::from_millis(1)))?;
        let mut client = Self { link, frames: Assembler::default(), pid: None, silence_max, ends_at };
        let frame = match client.link.read(&mut client.frames, &[Type::Hello, Type::Reply], started_at + wait)? {
            Read::Frame(frame) => frame,
            Read::Nothing => return Err(client.timeout("greet")),
            Read::End => return Err(ControlError::Gone(socket_name.to_owned())),
        };
        match frame.of {
            Type::Reply => Err(refusal(&frame)),
            _ => {
                client.pid = Some(frame.decode::<Hello>()?.pid);
                Ok(client)
            }
        }
    }

    /// The process id that the other side gave.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Have the command carried out. `task` hears of its progress; cancelling it cancels the command.
    ///
    /// # Errors
    /// [`ControlError::Remote`] is the command's own failure. After [`ControlError::Timeout`] and
    /// [`ControlError::Lost`] it may or may not have been done.
    pub fn call(mut self, command: &Command, task: &Task) -> Result<Outcome, ControlError> {
        let mut heard_at = now();
        match self.link.write(Type::Request, command, self.limit(heard_at))? {
            Sent::Whole => {}
            Sent::Late => return Err(self.timeout("take the command")),
            Sent::End => return Err(ControlError::Gone("ended before it had the command".into())),
        }
        let mut told = Progress::default();
        let mut cancelled_at = None;
        loop {
            if cancelled_at.is_none() && task.cancel.is_cancelled() {
                self.link.write_now(Type::Cancel, &());
                cancelled_at = Some(now());
            }
            let limit = self.limit(cancelled_at.unwrap_or(heard_at));
            let look_at = limit.min(now() + LOOK);
            match self.link.read(&mut self.frames, &[Type::Progress, Type::Reply], look_at)? {
                Read::Frame(frame) if frame.of == Type::Reply => return frame.decode::<Reply>()?.into_result(),
                Read::Frame(frame) => {
                    heard_at = now();
                    let at = Progress::from(frame.decode::<Told>()?);
                    if at != told {
                        told = at;
                        task.report(at);
                    }
                }
                Read::Nothing if now() < limit => {}
                Read::Nothing if cancelled_at.is_some() => return Err(ControlError::Cancelled),
                Read::Nothing => {
                    self.link.write_now(Type::Cancel, &());
                    return Err(self.timeout("answer"));
                }
                Read::End => return Err(ControlError::Lost { pid: self.pid }),
            }
        }
    }

    /// When patience ends with a process last heard of at `heard_at`.
    fn limit(&self, heard_at: Duration) -> Duration {
        let silent_until = heard_at + self.silence_max;
        self.ends_at.map_or(silent_until, |ends_at| silent_until.min(ends_at))
    }

    fn timeout(&self, verb: &'static str) -> ControlError {
        ControlError::Timeout { verb, pid: self.pid }
    }
}

/// The error of a server that answers before it is asked.
fn refusal(frame: &Frame) -> ControlError {
    match frame.decode::<Reply>().and_then(Reply::into_result) {
        Ok(_) => ControlError::Malformed("an outcome before any command".into()),
        Err(error) => error,
    }
}
