//! Pulls a model: finds out which files it consists of, downloads them, and puts them in place.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use quern_tensor_io::Remedy;

use crate::blobs::{Blobs, Check, State};
use crate::cache::Repository;
use crate::clean::brief;
use crate::client::Client;
use crate::download::{self, Download, FileSource};
use crate::error::ErrorKind;
use crate::index;
use crate::listing::{Identity, Listing, Names};
use crate::lock::Lock;
use crate::output::Output;
use crate::parallel::each;
use crate::select::{self, Patterns, Selection, Weights};
use crate::{Error, Hub, Name, PullProgress, Result, space};

/// The largest index of shards that is read. Those of the largest models have some 30 MiB.
pub(crate) const LARGEST_INDEX: u64 = 128 << 20;

/// What to pull beyond the name.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Download only files that match one of these patterns. None: the files that the model needs.
    pub include: Vec<String>,
    /// Do not download files that match one of these.
    pub exclude: Vec<String>,
    /// Put plain files into this new folder instead of the cache.
    pub output: Option<PathBuf>,
    /// Download files again that are present; with `output`, replace the folder.
    pub force: bool,
}

/// What was pulled.
#[derive(Debug)]
pub struct Pulled {
    /// The commit, 40 hex digits.
    pub commit: String,
    /// The folder that holds the files by their paths in the repository.
    pub folder: PathBuf,
    /// The file to open; `None` where patterns left the model out.
    pub model: Option<PathBuf>,
    /// Every file, weights first.
    pub files: Vec<PulledFile>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// One file of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledFile {
    /// Path in the repository, and below [`Pulled::folder`].
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Where it came from.
    pub source: FileSource,
}

/// A file to download.
type Wanted = (String, Identity);

impl Hub {
    /// Downloads the files of a model into the cache or a folder.
    ///
    /// Files that are present are not downloaded again, once their content was found to be right; interrupted downloads
    /// are resumed. Links and the reference of the revision are written when all files are present.
    ///
    /// # Errors
    /// Every way in which the Hub, the network or the disk can fail; see [`ErrorKind`].
    pub fn pull(&self, name: &Name, options: &PullOptions, progress: &dyn PullProgress) -> Result<Pulled> {
        let patterns = Patterns::new(&options.include, &options.exclude);
        let output = options.output.as_deref().map(|path| Output::new(path, options.force)).transpose()?;
        let settings = self.client.settings();
        if settings.offline {
            return self.pull_offline(name, &patterns, output);
        }
        let listing = Listing::fetch(&self.client, name)?;
        let cache = Repository::new(&settings.cache, name.repository(), name.revision());
        let blobs = output.as_ref().map_or(&cache.blobs, |o| &o.blobs);
        // With a folder of its own to fill, `force` is about that folder.
        let force = options.force && output.is_none();
        let notes = Mutex::default();
        let job =
            Job { client: &self.client, listing: &listing, cache: &cache, blobs, force, progress, notes };
        let (selection, files) = job.bring(name, &patterns)?;
        let mut notes = job.notes.into_inner().unwrap_or_default();
        let folder = match output {
            Some(output) => {
                let place =
                    |(f, i): &(PulledFile, Identity)| (f.path.clone(), output.or_cached(&cache, &i.digest));
                let content = files.iter().map(place).collect();
                output.finish(content)?
            }
            None => {
                let files: Vec<_> = files.iter().map(|(file, identity)| (&*file.path, *identity)).collect();
                cache.publish(&listing.commit, &files)?;
                cache.snapshot(&listing.commit)
            }
        };
        if let [first, ..] = &listing.unsound[..] {
            notes.push(format!(
                "{} files of the repository have names that are not safe as paths ({:?}) and were not downloaded",
                listing.unsound.len(),
                brief(first)
            ));
        }
        let files = files.into_iter().map(|(file, _)| file).collect();
        Ok(Pulled { model: start(&folder, &selection), commit: listing.commit, folder, files, notes })
    }

    /// The same without network requests.
    fn pull_offline(&self, name: &Name, patterns: &Patterns, output: Option<Output>) -> Result<Pulled> {
        let (commit, selection, files) = self.cached(name, patterns, Check::All)?;
        let cache = self.repository(name);
        let snapshot = cache.snapshot(&commit);
        let size = |file: &String| std::fs::metadata(snapshot.join(file)).map_or(0, |m| m.len());
        let pulled =
            files.iter().map(|f| PulledFile { path: f.clone(), bytes: size(f), source: FileSource::Cache });
        let pulled: Vec<_> = pulled.collect();
        let folder = match output {
            Some(output) => output.finish(files.iter().map(|f| (f.clone(), snapshot.join(f))).collect())?,
            None => snapshot,
        };
        Ok(Pulled { model: start(&folder, &selection), commit, folder, files: pulled, notes: Vec::new() })
    }

    /// What the cache has of a model, whole: commit, selection, all files. Their content is checked as `check` says.
    pub(crate) fn cached(
        &self,
        name: &Name,
        patterns: &Patterns,
        check: Check,
    ) -> Result<(String, Selection, Vec<String>)> {
        let cache = self.repository(name);
        let missing = |what: String| {
            Error::new(name.to_string(), ErrorKind::Offline(what)).with_remedy(Remedy::GoOnline)
        };
        let Some(commit) = cache.commit()? else {
            let folder = self.client.settings().cache.display();
            return Err(missing(format!("not in the cache {folder}")));
        };
        let names = cache.files(&commit);
        let incomplete = |what| missing(format!("not complete in the cache: {what}"));
        let selection = choose(&names, name, patterns).map_err(incomplete)?;
        let mut files = selection.files();
        if let Some(Weights::Index(index)) = &selection.weights {
            cache.check(&commit, index, check, &AtomicBool::new(false))?;
            let text = download::read(&cache.snapshot(&commit).join(index), LARGEST_INDEX)?;
            let shards = index::shards(index, &text, &names).map_err(incomplete)?;
            files.splice(1..1, shards.into_iter().filter(|s| patterns.pick(s)));
        }
        files.iter().try_for_each(|file| cache.check(&commit, file, check, &AtomicBool::new(false)))?;
        Ok((commit, selection, files))
    }

    /// The file of a selection to open, if the cache has all of it at the listing's commit.
    pub(crate) fn linked(
        &self,
        name: &Name,
        listing: &Listing,
        selection: &Selection,
    ) -> Result<Option<PathBuf>> {
        let Some(weights) = &selection.weights else { return Ok(None) };
        let cache = self.repository(name);
        let snapshot = cache.snapshot(&listing.commit);
        let all_here = |files: Vec<String>| -> Result<bool> {
            for file in files {
                if !cache.linked(&listing.commit, &file, &listing.identity(&self.client, &file)?) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        // Without the folder no sizes need to be requested.
        if !snapshot.is_dir() || !all_here(selection.files())? {
            return Ok(None);
        }
        if let Weights::Index(index) = weights {
            let text = download::read(&snapshot.join(index), LARGEST_INDEX)?;
            match index::shards(index, &text, &listing.names()) {
                Ok(shards) if all_here(shards.clone())? => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(snapshot.join(weights.first())))
    }

    pub(crate) fn repository(&self, name: &Name) -> Repository {
        Repository::new(&self.client.settings().cache, name.repository(), name.revision())
    }
}

/// The selection from a repository with these files.
pub(crate) fn choose(names: &Names, name: &Name, patterns: &Patterns) -> Result<Selection, String> {
    if patterns.include_given() {
        let picked: Names = names.iter().filter(|n| patterns.pick(n)).cloned().collect();
        if picked.is_empty() {
            return Err("no file matches the patterns to include without matching one to exclude".to_owned());
        }
        // A model among them matters only for the file to open.
        let weights = select::select(&picked, name.choice()).ok().and_then(|s| s.weights);
        let own = weights.clone().map(|w| Selection { weights: Some(w), others: Vec::new() }.files());
        let own = own.unwrap_or_default();
        let own: HashSet<&str> = own.iter().map(String::as_str).collect();
        let others = picked.iter().filter(|n| !own.contains(&***n)).map(|n| n.to_string()).collect();
        return Ok(Selection { weights, others });
    }
    let mut selection = select::select(names, name.choice())?;
    selection.others.retain(|n| patterns.pick(n));
    if let Some(Weights::Gguf(files)) = &mut selection.weights {
        files.retain(|n| patterns.pick(n));
    }
    if selection.weights.as_ref().is_some_and(|w| w.first().is_empty() || !patterns.pick(w.first())) {
        selection.weights = None;
    }
    Ok(selection)
}

/// The file to open.
fn start(folder: &Path, selection: &Selection) -> Option<PathBuf> {
    selection.weights.as_ref().map(|weights| folder.join(weights.first()))
}

/// A running pull.
struct Job<'a> {
    client: &'a Client,
    listing: &'a Listing,
    cache: &'a Repository,
    blobs: &'a Blobs,
    force: bool,
    progress: &'a dyn PullProgress,
    /// What a user should know.
    notes: Mutex<Vec<String>>,
}

impl Job<'_> {
    /// Downloads everything that the name and the patterns select.
    fn bring(&self, name: &Name, patterns: &Patterns) -> Result<(Selection, Vec<(PulledFile, Identity)>)> {
        let refused = |what| Error::new(name.to_string(), ErrorKind::Choice(what));
        let unsound = self.listing.unsound.iter();
        let mut asked_for = unsound
            .filter(|n| name.choice() == Some(n.as_str()) || (patterns.include_given() && patterns.pick(n)));
        if let Some(bad) = asked_for.next() {
            let what =
                format!("the repository has a file {:?}, whose name is not safe as a path", brief(bad));
            return Err(Error::untrusted(name.repository(), what));
        }
        let names = self.listing.names();
        let selection = choose(&names, name, patterns).map_err(refused)?;
        let mut wanted = selection.files();
        let mut done = Vec::new();
        // The shards are in the index, which comes first; with patterns, those say what to take.
        if let Some(Weights::Index(index)) = selection.weights.as_ref().filter(|_| !patterns.include_given())
        {
            let identity = self.identity(index)?;
            if identity.size > LARGEST_INDEX {
                let what =
                    format!("{} for an index of shards", quern_tensor_io::output::human_bytes(identity.size));
                return Err(Error::untrusted(format!("{}/{index}", name.repository()), what));
            }
            let quiet = quern_tensor_io::NoProgress;
            let never = AtomicBool::new(false);
            let source = match !self.force && self.is_right(index, &identity, &never)? {
                true => FileSource::Cache,
                false => self.download(index, identity, &quiet, &never)?,
            };
            let place = if self.blobs.has(&identity)? { self.blobs } else { &self.cache.blobs };
            let text = download::read(&place.path(&identity.digest), LARGEST_INDEX)?;
            let shards = index::shards(index, &text, &names).map_err(refused)?;
            done.push((PulledFile { path: index.clone(), bytes: identity.size, source }, identity));
            wanted.splice(..1, shards.into_iter().filter(|s| patterns.pick(s)));
        }
        done.extend(self.all(wanted)?);
        Ok((selection, done))
    }

    fn identity(&self, file: &str) -> Result<Identity> {
        self.listing.identity(self.client, file)
    }

    /// Downloads these files, several at a time; the first failure stops the others.
    fn all(&self, names: Vec<String>) -> Result<Vec<(PulledFile, Identity)>> {
        let threads = self.client.settings().connections;
        let wanted: Vec<Wanted> = each(names, threads, &AtomicBool::new(false), |name, _| {
            Ok((name.clone(), self.identity(&name)?))
        })?;
        // The same content under two names is downloaded once.
        let mut seen = HashSet::new();
        let (first, again): (Vec<_>, Vec<_>) =
            wanted.iter().cloned().partition(|(_, i)| seen.insert(i.digest));
        // What is there is checked before the sum of what is to come is made.
        let first = each(first, threads, &AtomicBool::new(false), |(file, identity), cancelled| {
            let here = !self.force && self.is_right(&file, &identity, cancelled)?;
            Ok((file, identity, here))
        })?;
        let missing: Vec<_> = first.iter().filter(|(.., here)| !here).collect();
        let bytes = missing.iter().fold(0, |sum: u64, (_, i, _)| sum.saturating_add(i.size));
        if !missing.is_empty() {
            std::fs::create_dir_all(&self.blobs.folder).map_err(|e| Error::disk(&self.blobs.folder, &e))?;
            let mut left = 0_u64;
            for (_, identity, _) in &missing {
                left = left.saturating_add(self.blobs.left(identity)?);
            }
            space::check(&self.blobs.folder, left)?;
        }
        self.progress.total(missing.len(), bytes);
        let cancelled = AtomicBool::new(false);
        let sources = each(first, threads, &cancelled, |(file, identity, here), cancelled| {
            let source = match here {
                true => FileSource::Cache,
                false => self.download(&file, identity, self.progress, cancelled)?,
            };
            Ok((PulledFile { path: file, bytes: identity.size, source }, identity))
        })?;
        let again = again.into_iter().map(|(path, identity)| {
            (PulledFile { path, bytes: identity.size, source: FileSource::Cache }, identity)
        });
        let mut all: Vec<_> = sources.into_iter().chain(again).collect();
        let order: HashMap<&str, usize> =
            wanted.iter().enumerate().map(|(at, (n, _))| (n.as_str(), at)).collect();
        all.sort_by_key(|(file, _)| order.get(&*file.path).copied());
        Ok(all)
    }

    /// Whether a blob is in its place already with the right content, or in the cache, from which it will be copied.
    /// A damaged one in its place is removed.
    fn is_right(&self, file: &str, identity: &Identity, cancelled: &AtomicBool) -> Result<bool> {
        for (blobs, own) in [(self.blobs, true), (&self.cache.blobs, false)] {
            let state = |reading: &dyn Fn()| {
                blobs.state(&identity.digest, Some(identity.size), Check::All, cancelled, reading)
            };
            let reading = || self.progress.waiting(file, "checking the file in the cache");
            match state(&reading)? {
                State::Right => return Ok(true),
                State::Damaged if own => {
                    let _lock = Lock::take(&blobs.lock(&identity.digest), cancelled, || {
                        self.progress.waiting(file, "another process is downloading it");
                    })?;
                    // Another process may have mended it since.
                    if state(&|| ())? == State::Right {
                        return Ok(true);
                    }
                    let path = blobs.path(&identity.digest);
                    std::fs::remove_file(&path).map_err(|e| Error::disk(&path, &e))?;
                    if let Ok(mut notes) = self.notes.lock() {
                        notes.push(format!("{file} was damaged in the cache and was downloaded again"));
                    }
                }
                State::Damaged | State::Absent => {}
            }
        }
        Ok(false)
    }

    fn download(
        &self,
        file: &str,
        identity: Identity,
        progress: &dyn PullProgress,
        cancelled: &AtomicBool,
    ) -> Result<FileSource> {
        let (client, listing, blobs, force) = (self.client, self.listing, self.blobs, self.force);
        Download { client, listing, blobs, file, identity, force, progress, cancelled }.run()
    }
}
