//! Downloads: a bar for each file and one for all, or in plain text a line for each file and the total now and then.

use std::collections::HashMap;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use quern_hub::PullProgress;
use quern_tensor_io::Progress;

use super::{BARS, Bar, Style, Unit, style};
use crate::format::escape;
use crate::{format, messages};

/// The progress of a pull.
pub struct Transfers {
    /// While the Hub is asked what there is.
    asking: Mutex<Option<Bar>>,
    total: Bar,
    files: Mutex<HashMap<String, File>>,
}

struct File {
    bytes: u64,
    bar: ProgressBar,
}

impl Transfers {
    /// Nothing is shown before the Hub has answered, unless that takes longer than a second.
    pub fn new() -> Self {
        let asking = Mutex::new(Some(Bar::waiting("asking the Hub for the list of files")));
        Self { asking, total: Bar::new(Unit::Bytes, "downloading"), files: Mutex::default() }
    }

    fn with(&self, file: &str, act: impl FnOnce(&File)) {
        if let Some(file) = self.files.lock().ok().as_deref().and_then(|files| files.get(file)) {
            act(file);
        }
    }

    fn answered(&self) {
        if let Ok(mut asking) = self.asking.lock() {
            *asking = None;
        }
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.answered();
        if let Ok(files) = self.files.lock() {
            files.values().for_each(|file| file.bar.finish_and_clear());
        }
    }
}

impl PullProgress for Transfers {
    fn total(&self, files: usize, bytes: u64) {
        self.answered();
        if files > 0 {
            self.total.total(bytes);
        }
    }

    fn start(&self, file: &str, bytes: u64) {
        let bar = ProgressBar::hidden();
        bar.set_length(bytes);
        if let Ok(style) =
            ProgressStyle::with_template("[{bar:16}] {bytes:>10}/{total_bytes}  {prefix} {wide_msg}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(escape::line(file).into_owned());
        let bar = match style() {
            Style::Bars => BARS.insert(0, bar),
            Style::Plain | Style::None => bar,
        };
        if let Ok(mut files) = self.files.lock() {
            files.insert(file.to_owned(), File { bytes, bar });
        }
    }

    fn at(&self, file: &str, bytes: u64) {
        self.with(file, |file| {
            let before = file.bar.position();
            match bytes >= before {
                true => self.total.bar.inc(bytes - before),
                false => self.total.bar.dec(before - bytes),
            }
            file.bar.set_position(bytes);
            file.bar.set_message("");
        });
    }

    fn waiting(&self, file: &str, why: &str) {
        self.with(file, |found| {
            found.bar.set_message(format!("({})", escape::line(why)));
            if style() == Style::Plain {
                messages::line(format_args!("{file}: {why}"));
            }
        });
    }

    fn done(&self, file: &str) {
        self.with(file, |found| {
            found.bar.finish_and_clear();
            if style() == Style::Plain {
                messages::line(format_args!("{file}: complete, {}", format::bytes(found.bytes)));
            }
        });
    }
}
