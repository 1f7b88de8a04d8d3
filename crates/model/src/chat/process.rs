//! A template that is rendered by a process of its own (`worker`), which is ended when it takes too long, makes too
//! much, or is no longer needed.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::request::{Answer, Failure, Rendered, Request};
use super::worker;

/// How long the answer to a request may take. Rendering takes milliseconds; a busy machine is slower.
pub(super) const TIME: Duration = Duration::from_secs(6);

/// The program that serves, started again: its own file.
static PROGRAM: OnceLock<OsString> = OnceLock::new();

/// From now on this program renders templates in processes of itself.
pub(super) fn register() {
    // The link leads to the running program even if its file was replaced meanwhile.
    let own = "/proc/self/exe";
    let program = match std::fs::metadata(own) {
        Ok(_) => Some(OsString::from(own)),
        Err(_) => std::env::current_exe().ok().map(OsString::from),
    };
    if let Some(program) = program {
        PROGRAM.get_or_init(|| program);
    }
}

/// A template and the process that renders it. A process that ended is started again for the next request.
pub(super) struct Served {
    program: &'static OsString,
    source: String,
    now: Option<String>,
    running: Mutex<Option<Running>>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Served {
    /// The template, compiled; `None` in programs that do not serve.
    pub(super) fn new(source: &str, now: Option<&str>) -> Option<Result<Self, Failure>> {
        let program = PROGRAM.get()?;
        let served = Self {
            program,
            source: source.to_owned(),
            now: now.map(str::to_owned),
            running: Mutex::new(None),
        };
        let started = served.start();
        Some(started.map(|running| Self { running: Mutex::new(Some(running)), ..served }))
    }

    /// What the process answers.
    pub(super) fn ask(&self, request: &Request<'_>) -> Answer {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = match running.take().and_then(Running::alive) {
            Some(process) => process,
            None => self.start()?,
        };
        let rendered = process.ask(request)?;
        *running = Some(process);
        rendered
    }

    fn start(&self) -> Result<Running, Failure> {
        let mut process = Running::start(self.program)?;
        let (source, now) = (Cow::Borrowed(&*self.source), self.now.as_deref().map(Cow::Borrowed));
        let _: Rendered = process.ask(&Request::Compile { source, now })??;
        Ok(process)
    }
}

/// The process, and both ends of its pipes. It ends with this value.
struct Running {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(program: &OsString) -> Result<Self, Failure> {
        let refused = |e: io::Error| {
            Failure::new(format!(
                "cannot start a process to render it: {e}; the limits of processes and of memory (ulimit -u, ulimit \
                 -v) must allow one more"
            ))
        };
        let mut command = Command::new(program);
        command.arg0("quern").arg(worker::ARGUMENT).env(worker::VARIABLE, "1");
        // Of glibc: address space is for values, not for what threads might need.
        command.env("MALLOC_ARENA_MAX", "1");
        // Ctrl-C on the terminal is for the program, which may go on.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(refused)?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(refused(io::Error::other("it has no pipes")));
        };
        let process = Self { child, requests, answers };
        let pipes = [process.requests.as_fd(), process.answers.as_fd()];
        pipes
            .into_iter()
            .try_for_each(|fd| rustix::io::ioctl_fionbio(fd, true))
            .map_err(|e| refused(e.into()))?;
        Ok(process)
    }

    /// Itself, unless it has ended.
    fn alive(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    /// One request and its answer. After an error the process is of no more use.
    fn ask(&mut self, request: &Request<'_>) -> Result<Answer, Failure> {
        let mut line = serde_json::to_vec(request).map_err(|e| Failure::new(e.to_string()))?;
        line.push(b'\n');
        // Texts are bounded before they are sent; control characters take six bytes each.
        let most = (8 << 20) + 32 * line.len();
        let answer = self.exchange(&line, most, Instant::now() + TIME).map_err(|end| self.ended(end))?;
        serde_json::from_slice(&answer).map_err(|e| {
            Failure::new(format!("the process that renders it answered with no valid JSON: {e}"))
        })
    }

    /// Sends a line and receives one of at most `most` bytes.
    fn exchange(&mut self, mut line: &[u8], most: usize, deadline: Instant) -> Result<Vec<u8>, End> {
        while !line.is_empty() {
            match self.requests.write(line) {
                Ok(count) => line = &line[count..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    wait(self.requests.as_fd(), PollFlags::OUT, deadline)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Gone),
            }
        }
        let (mut answer, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        while answer.last() != Some(&b'\n') {
            match self.answers.read(&mut piece) {
                Ok(0) => return Err(End::Gone),
                Ok(count) if answer.len() + count > most => return Err(End::TooLong),
                Ok(count) => answer.extend_from_slice(&piece[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    wait(self.answers.as_fd(), PollFlags::IN, deadline)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Gone),
            }
        }
        Ok(answer)
    }

    /// Why there is no answer. The process is ended and reaped.
    fn ended(&mut self, end: End) -> Failure {
        let status = match end {
            // It closed its pipes by ending.
            End::Gone => self.child.wait(),
            End::Late => return Failure::new(format!("it takes longer than {} s", TIME.as_secs())),
            End::TooLong => return Failure::new("it makes too much text"),
        };
        match status {
            Ok(status) => Failure::new(what_ended(status)),
            Err(e) => Failure::new(format!("the process that renders it ended: {e}")),
        }
    }
}

/// Why a process gave no answer.
enum End {
    /// It ended.
    Gone,
    /// The deadline passed.
    Late,
    /// The answer is longer than anything that may be right.
    TooLong,
}

/// Waits until a pipe is ready.
fn wait(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> Result<(), End> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(|_| End::Late)?;
    match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout)) {
        Ok(0) => Err(End::Late),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(_) => Err(End::Gone),
    }
}

fn what_ended(status: ExitStatus) -> String {
    let signal = status.signal().and_then(rustix::process::Signal::from_named_raw);
    match (signal, status.signal()) {
        (Some(rustix::process::Signal::XCPU), _) => {
            format!("it takes longer than {} s of processor time", TIME.as_secs() / 2)
        }
        (Some(rustix::process::Signal::KILL), _) => {
            "the process that renders it was killed, as systems do when memory is short".to_owned()
        }
        (_, Some(number)) => {
            format!(
                "it takes too much memory or nests too deep (the process that renders it ended by signal {number})"
            )
        }
        (_, None) => format!("the process that renders it ended without an answer ({status})"),
    }
}
