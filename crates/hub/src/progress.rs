//! Where a pull reports how far it is; the command line draws it.

/// Receives the progress of a pull, from several threads. Files go by their paths in the repository.
pub trait PullProgress: Sync {
    /// What is about to be transferred, in all: called once, before any file.
    fn total(&self, files: usize, bytes: u64) {
        let _ = (files, bytes);
    }

    /// A file begins.
    fn start(&self, file: &str, bytes: u64) {
        let _ = (file, bytes);
    }

    /// So many of its bytes are here. The number may fall: a transfer that cannot be resumed begins anew.
    fn at(&self, file: &str, bytes: u64) {
        let _ = (file, bytes);
    }

    /// Why nothing happens for the moment.
    fn waiting(&self, file: &str, why: &str) {
        let _ = (file, why);
    }

    /// A file is here, checked.
    fn done(&self, file: &str) {
        let _ = file;
    }
}

impl PullProgress for quern_tensor_io::NoProgress {}
