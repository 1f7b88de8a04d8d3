//! The interface through which a pull reports its progress; the command line displays it.

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

    /// The number of its bytes received so far. It may fall: a transfer that cannot be resumed starts over.
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
