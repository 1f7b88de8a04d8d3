//! Files that are cut while they are mapped. Each test runs in a process of its own: other tests of this one write outputs,
//! which get no name while a mapped file is cut, and a handler is the process's.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use super::{MappedFile, check_mapped_files, check_open_files};
use crate::ErrorKind;
use crate::output::OutputFile;

const PAGE: usize = 4096;

/// Names the test whose body a process runs.
const CHILD: &str = "QUERN_TEST_MAP_CHILD";

/// Runs `body` in a process of its own, which ends as `expected` says.
fn child(name: &str, expected: impl Fn(ExitStatus) -> bool, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some_and(|child| child == name) {
        body();
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("map::tests::{name}"), "--exact", "--nocapture"]).env(CHILD, name);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("running 1 test"), "{text}");
    assert!(expected(output.status), "{}: {text}", output.status);
}

fn succeeds(status: ExitStatus) -> bool {
    status.success()
}

fn dies_of_bus_error(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGBUS)
}

/// A file of ones, in a folder that is removed.
fn ones(length: usize) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    std::fs::write(&path, vec![1; length]).unwrap();
    (folder, path)
}

fn cut(path: &Path, length: usize) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length as u64).unwrap();
}

fn count_ones(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == 1).count()
}

/// The text of an error that names the file.
fn changed(result: crate::Result<()>, path: &Path) -> String {
    let error = result.expect_err("a change is found");
    assert!(matches!(error.kind, ErrorKind::Changed(_)), "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&path.display().to_string()), "{text}");
    text
}

#[test]
#[cfg_attr(miri, ignore = "maps files and starts processes")]
fn a_cut_file_reads_as_zeros_on_every_thread_and_is_an_error() {
    child("a_cut_file_reads_as_zeros_on_every_thread_and_is_an_error", succeeds, || {
        let length = 64 * PAGE + 100;
        let (folder, path) = ones(length);
        let file = MappedFile::open(&path).unwrap();
        file.check().unwrap();
        assert_eq!(count_ones(file.bytes()), length);
        cut(&path, 3 * PAGE + 10);
        // Threads that begin everywhere, at once.
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (file, barrier) = (&file, &barrier);
                scope.spawn(move || {
                    let bytes = file.bytes();
                    barrier.wait();
                    // SAFETY: the address of the thread's own number.
                    unsafe { *libc::__errno_location() = 77 };
                    let (start, end) = (thread * length / 8, (thread + 1) * length / 8);
                    let expected = (3 * PAGE + 10).clamp(start, end) - start;
                    assert_eq!(count_ones(&bytes[start..end]), expected);
                    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(77));
                });
            }
        });
        assert!(file.watched.check_read().is_err());
        let text = changed(file.check_read(), &path);
        assert!(text.contains(&format!("it had {length} bytes and has {} now", 3 * PAGE + 10)), "{text}");
        file.release(0, length);
        assert_eq!(count_ones(file.bytes()), 3 * PAGE + 10);
        // No output meanwhile.
        let mut output = OutputFile::create(&folder.path().join("out"), false).unwrap();
        output.append(b"made from zeros").unwrap();
        changed(output.commit(), &path);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(file);
        // Now only the program is asked, once.
        check_open_files().unwrap();
        changed(check_mapped_files(), &path);
        check_mapped_files().unwrap();
    });
}

#[test]
#[cfg_attr(miri, ignore = "maps files and starts processes")]
fn what_is_lost_stays_an_error_when_the_file_is_whole_again() {
    child("what_is_lost_stays_an_error_when_the_file_is_whole_again", succeeds, || {
        let (_folder, path) = ones(8 * PAGE);
        let file = MappedFile::open(&path).unwrap();
        cut(&path, 0);
        assert_eq!(count_ones(file.bytes()), 0);
        std::fs::write(&path, vec![1; 8 * PAGE]).unwrap();
        let text = changed(file.check_read(), &path);
        assert!(text.contains("a part of it could not be read"), "{text}");
        // Also under another name.
        std::fs::rename(&path, path.with_extension("old")).unwrap();
        changed(file.check(), &path);
    });
}

#[test]
#[cfg_attr(miri, ignore = "maps files and starts processes")]
fn every_length_is_cut_and_found() {
    child("every_length_is_cut_and_found", succeeds, || {
        for length in [1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 5] {
            for left in [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE] {
                if left >= length {
                    continue;
                }
                let (_folder, path) = ones(length);
                let file = MappedFile::open(&path).unwrap();
                cut(&path, left);
                // The rest of the last page is lost without a fault, so the size says it.
                let lost = left.next_multiple_of(PAGE) < length.next_multiple_of(PAGE);
                assert_eq!(count_ones(file.bytes()), left, "{length} to {left}");
                assert_eq!(file.check_read().is_err(), lost, "{length} to {left}");
                changed(file.check(), &path);
            }
        }
        let (_folder, path) = ones(0);
        let empty = MappedFile::open(&path).unwrap();
        assert!(empty.bytes().is_empty());
        empty.check().unwrap();
        drop(empty);
    });
}

#[test]
#[cfg_attr(miri, ignore = "maps files and starts processes")]
fn a_file_that_grows_or_is_written_is_an_error_and_one_that_is_replaced_is_not() {
    let name = "a_file_that_grows_or_is_written_is_an_error_and_one_that_is_replaced_is_not";
    child(name, succeeds, || {
        let (_folder, path) = ones(2 * PAGE);
        let file = MappedFile::open(&path).unwrap();
        std::fs::write(path.with_extension("new"), b"other").unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
        file.check().unwrap();
        assert_eq!(count_ones(file.bytes()), 2 * PAGE);
        drop(file);
        check_mapped_files().unwrap();

        let file = MappedFile::open(&path).unwrap();
        cut(&path, 6);
        let text = changed(file.check(), &path);
        assert!(text.contains("changed by another program"), "{text}");
        drop(file);

        let file = MappedFile::open(&path).unwrap();
        let later = SystemTime::now() + Duration::from_secs(60);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        changed(file.check(), &path);
        std::fs::remove_file(&path).unwrap();
        file.check().unwrap();
    });
}

#[test]
#[cfg_attr(miri, ignore = "maps files and starts processes")]
fn slots_are_used_again() {
    child("slots_are_used_again", succeeds, || {
        let files: Vec<_> = (0..200).map(|_| ones(2 * PAGE)).collect();
        for round in 0..3 {
            let maps: Vec<_> = files.iter().map(|(_, path)| MappedFile::open(path).unwrap()).collect();
            // In every third map pages are lost, and only there.
            for (_, path) in files.iter().skip(round).step_by(3) {
                cut(path, PAGE);
            }
            for (i, map) in maps.iter().enumerate() {
                let is_cut = i % 3 == round;
                assert_eq!(count_ones(map.bytes()), if is_cut { PAGE } else { 2 * PAGE });
                assert_eq!(map.check_read().is_err(), is_cut);
            }
            for (_, path) in &files {
                std::fs::write(path, vec![1; 2 * PAGE]).unwrap();
            }
        }
    });
}

/// Reads a page behind the end of a file that this module did not map.
fn fault_elsewhere() {
    let (_folder, path) = ones(2 * PAGE);
    // SAFETY: the bytes are read once, and the fault is what is tested.
    let map = unsafe { memmap2::Mmap::map(&File::open(&path).unwrap()) }.unwrap();
    cut(&path, 0);
    assert_eq!(count_ones(&map), 0);
}

/// Maps a file, so that the handler is there.
fn map_something() {
    let (_folder, path) = ones(PAGE);
    drop(MappedFile::open(&path).unwrap());
}

#[test]
#[cfg_attr(miri, ignore = "maps files and starts processes")]
fn other_faults_still_end_the_process() {
    child("other_faults_still_end_the_process", dies_of_bus_error, || {
        map_something();
        fault_elsewhere();
    });
}

#[test]
#[cfg_attr(miri, ignore = "maps files and starts processes")]
fn without_a_handler_before_the_default_is_what_it_was() {
    child("without_a_handler_before_the_default_is_what_it_was", dies_of_bus_error, || {
        // SAFETY: the default action, in a process of this test's own.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        map_something();
        // SAFETY: as above. A signal that is sent has no access that is repeated.
        unsafe { libc::raise(libc::SIGBUS) };
    });
}

static CALLED: AtomicUsize = AtomicUsize::new(0);

/// A handler as another library may have: its own faults it mends by ending the process.
extern "C" fn another_handler(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: installed with SA_SIGINFO, so that there is one.
    let address = unsafe { (*info).si_addr() } as usize;
    CALLED.store(address, Ordering::Relaxed);
    // SAFETY: ends the process.
    unsafe { libc::_exit(if address == 0 { 1 } else { 42 }) };
}

#[test]
#[cfg_attr(miri, ignore = "maps files and starts processes")]
fn a_handler_before_gets_what_is_not_of_a_map() {
    let name = "a_handler_before_gets_what_is_not_of_a_map";
    child(
        name,
        |status| status.code() == Some(42),
        || {
            // SAFETY: a handler of the right signature, in a process of this test's own.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    another_handler;
                action.sa_sigaction = handler as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
            }
            let (_folder, path) = ones(4 * PAGE);
            let file = MappedFile::open(&path).unwrap();
            cut(&path, PAGE);
            assert_eq!(count_ones(file.bytes()), PAGE);
            assert_eq!(CALLED.load(Ordering::Relaxed), 0);
            drop(file);
            fault_elsewhere();
        },
    );
}
