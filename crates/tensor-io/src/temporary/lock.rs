//! Locks on temporary files and folders: held by the process that made them, for as long as it lives.
//!
//! The lock is `flock(2)` on the file or folder itself, so nothing is added to a folder that becomes a model, and the
//! system releases it however the process ends. A name is made before it can be locked; whoever makes one therefore
//! looks again after locking whether it is still there ([`is_at`]), and makes another if it was swept meanwhile.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Locks what this process has made. Where the file system has no locks, nobody sweeps. Somebody who sweeps holds the
/// lock for a moment; whoever else holds it for longer is not waited for.
pub(crate) fn hold(file: &File) {
    wait_for(file, Duration::from_secs(2));
}

fn wait_for(file: &File, time: Duration) {
    let start = Instant::now();
    while let Err(TryLockError::WouldBlock) = file.try_lock()
        && start.elapsed() < time
    {
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether `file` is this user's and nobody holds its lock, on a file system where that is certain; it is held then.
pub(crate) fn is_abandoned(file: &File) -> bool {
    is_own(file) && is_local(file) && file.try_lock().is_ok()
}

/// In a folder that several users write to, others may have made files of such names, with any content.
#[cfg(unix)]
fn is_own(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw())
}

#[cfg(not(unix))]
fn is_own(_: &File) -> bool {
    true
}

/// Does something while no other process that asks for the same does it in `folder`; waits for a few seconds at most,
/// as anybody may lock a folder.
pub(crate) fn briefly_locked<R>(folder: &Path, work: impl FnOnce() -> R) -> R {
    let lock = File::open(folder).ok();
    lock.iter().for_each(|folder| wait_for(folder, Duration::from_secs(10)));
    let done = work();
    drop(lock);
    done
}

/// Whether the open file is the one of that name: after waiting for its lock, it may have been removed or replaced.
#[cfg(unix)]
pub fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Whether there is a file of that name.
#[cfg(not(unix))]
pub fn is_at(_: &File, path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether locks of other machines cannot be missed: not on network file systems, which may keep locks to one machine.
#[cfg(target_os = "linux")]
fn is_local(file: &File) -> bool {
    // Of `statfs(2)`: NFS, CIFS, SMB, SMB2, FUSE (sshfs and others), 9P, AFS, Ceph, Coda, NCP, Lustre, GFS2, OCFS2.
    const ELSEWHERE: [u32; 14] = [
        0x6969,
        0xff53_4d42,
        0x517b,
        0xfe53_4d42,
        0x6573_5546,
        0x0102_1997,
        0x5346_414f,
        0x00c3_6400,
        0x7375_7245,
        0x564c,
        0x0bd0_0bd0,
        0x0116_1970,
        0x7461_636f,
        0x6b41_4653,
    ];
    // Only the lower 32 bits are the type; its width differs between machines.
    rustix::fs::fstatfs(file).is_ok_and(|found| !ELSEWHERE.contains(&(found.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn is_local(_: &File) -> bool {
    cfg!(unix)
}
