#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! ```text
//! Settings        the environment, read once            Name        org/name@revision:choice
//! listing         what a repository holds               select      which files of it make the model
//! download        one file, resumed and checked         cache       the layout shared with Python
//! pull            the whole download                    headers     a model's headers alone
//! ```
//!
//! Of the crate hf-hub, the name of a repository's folder ([`hf_hub::Repo`]) is used, and nothing that touches the
//! network or the disk: its downloader checks neither length nor hash, joins the server's ETag into a path unchecked, does
//! not bound what it reads or how long, and reads the environment itself.

mod address;
mod blobs;
mod cache;
mod clean;
mod client;
mod digest;
mod download;
mod error;
mod failure;
mod gguf;
mod glob;
mod headers;
mod index;
mod listing;
mod locate;
mod lock;
mod meter;
mod name;
mod output;
mod parallel;
mod path;
mod progress;
mod pull;
mod reach;
mod regular;
mod select;
mod settings;
mod space;
mod status;
mod token;

pub use download::FileSource;
pub use error::{Error, ErrorKind, Result};
pub use headers::{Headers, Remote};
pub use locate::Located;
pub use name::{MAIN, Name};
pub use progress::PullProgress;
pub use pull::{PullOptions, Pulled, PulledFile};
pub use reach::CacheUse;
pub use settings::{Patience, Settings};
pub use token::Token;

use client::Client;

/// The Hub, or a mirror, and the cache.
#[derive(Debug)]
pub struct Hub {
    client: Client,
}

impl Hub {
    /// A Hub with these settings. No request is made yet.
    ///
    /// # Errors
    /// A proxy that cannot be used.
    pub fn new(settings: Settings) -> Result<Self> {
        Ok(Self { client: Client::new(settings)? })
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        self.client.settings()
    }
}
