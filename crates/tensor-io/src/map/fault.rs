//! The handler of SIGBUS: puts zeros where a mapped file has lost its pages.
//!
//! ```text
//! SIGBUS ─┬─ of an access to a map ──> mark it as lost, map zeros from the page to the map's end, return
//!         └─ anything else ──────────> what was there before: a handler, nothing, or the end of the process
//! ```
//!
//! It is installed by the first map and stays. Everything it calls is async-signal-safe: loads and stores of atomic
//! numbers, `mmap`, `sigaction` and `raise`, which are system calls.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

use super::ranges;

/// What was done about SIGBUS before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Bytes of a page.
static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Installs the handler, once.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        page();
        // SAFETY: all fields of a `sigaction` are numbers, sets of bits or optional functions: zeros are its default.
        let (mut previous, mut action): (libc::sigaction, libc::sigaction) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: asks only, and writes to the one that is ours.
        if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) } != 0 {
            return;
        }
        // Before the handler can run.
        let _ = PREVIOUS.set(previous);
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
        action.sa_sigaction = handler as usize;
        // On the alternate stack, where there is one, as the handler of the standard library that it precedes.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does only what a handler may.
        unsafe {
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
        }
    });
}

/// The pages that hold these bytes of a map.
pub(super) fn pages(bytes: Range<*const u8>) -> Range<usize> {
    let page = page();
    bytes.start as usize / page * page..(bytes.end as usize).next_multiple_of(page)
}

fn page() -> usize {
    match PAGE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: asks for a number.
            let found = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            let page = usize::try_from(found).ok().filter(|page| page.is_power_of_two()).unwrap_or(4096);
            PAGE.store(page, Ordering::Relaxed);
            page
        }
        page => page,
    }
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the system gives a valid one; this signal has an address, unless a process sent it.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // Memory that fails (BUS_MCEERR_AR) and accesses that are not aligned are not of a file's making.
    let of_a_file = code == libc::BUS_ADRERR || code == BUS_OBJERR;
    if !(of_a_file && fill(address)) {
        // SAFETY: the arguments are this handler's own.
        unsafe { as_before(signal, info, context) };
    }
}

/// What FreeBSD and macOS say if the file cannot be read; no such thing on Linux, where the code means nothing else.
const BUS_OBJERR: c_int = 3;

/// Maps zeros from the page of `address` to the end of the range that holds it; `false` if none does.
fn fill(address: usize) -> bool {
    let Some(range) = ranges::lose(address) else { return false };
    let start = address & !(PAGE.load(Ordering::Relaxed) - 1);
    let errno = errno();
    // SAFETY: the pages are those of a map that exists, because a thread is reading it, and that is private and
    // read-only as the new ones are. They replace the old ones in one step. No other memory is within the range:
    // it is entered after the map is made and left before the map is gone.
    let made = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(start),
            range.end - start,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    // SAFETY: the thread's own number, which the interrupted code must find as it was.
    unsafe { *errno.0 = errno.1 };
    made != libc::MAP_FAILED
}

/// Where the thread's `errno` is, and what it is.
fn errno() -> (*mut c_int, c_int) {
    // SAFETY: these functions return the address of a number that is there as long as the thread.
    unsafe {
        #[cfg(any(target_os = "linux", target_os = "emscripten", target_os = "hurd"))]
        let place = libc::__errno_location();
        #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
        let place = libc::__errno();
        #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
        let place = libc::__error();
        #[cfg(any(target_os = "solaris", target_os = "illumos"))]
        let place = libc::___errno();
        (place, *place)
    }
}

/// Does what was done about the signal before.
///
/// # Safety
/// The arguments are those of a handler with SA_SIGINFO.
unsafe fn as_before(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: as in `on_bus_error`. Codes up to 0 are of signals that a process has sent.
    let sent = unsafe { (*info).si_code } <= 0;
    let previous = PREVIOUS.get().map_or((libc::SIG_DFL, 0), |p| (p.sa_sigaction, p.sa_flags));
    match previous {
        // An access cannot be repeated for ever: the system ends the process there, too.
        (libc::SIG_IGN, _) if sent => {}
        (libc::SIG_DFL | libc::SIG_IGN, _) => {
            // SAFETY: zeros are the default action with no flags. The access is repeated after the return, and the
            // signal then ends the process; one that was sent is sent again.
            unsafe {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &raw const default, ptr::null_mut());
                if sent {
                    libc::raise(signal);
                }
            }
        }
        (handler, flags) if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the system would have called this function with these arguments.
            unsafe {
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
        }
        (handler, _) => {
            // SAFETY: the system would have called this function with this argument.
            unsafe {
                let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}
