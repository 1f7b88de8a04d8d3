//! Pulls a model: finds out which files it consists of, downloads them, and puts them in place.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use quern_tensor_io::Remedy;

use crate::cache::{Blobs, Repository};
use crate::client::Client;
use crate::download::{self, Download, FileSource};
use crate::error::ErrorKind;
use crate::listing::{Identity, Listing, brief};
use crate::output::Output;
use crate::parallel::each;
use crate::select::{self, Patterns, Selection, Weights};
use crate::{Error, Hub, Name, PullProgress, Result, space};

/// The largest index of shards that is read.
pub(crate) const LARGEST_INDEX: u64 = 256 << 20;

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
    /// Files that are present are not downloaded again; interrupted downloads are resumed. Links and the reference
    /// of the revision are written when all files are present.
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
        let job = Job { client: &self.client, listing: &listing, cache: &cache, blobs, force, progress };
        let (selection, files) = job.bring(name, &patterns)?;
        let folder = match output {
            Some(output) => {
                let place =
                    |(f, i): &(PulledFile, Identity)| (f.path.clone(), output.or_cached(&cache, &i.digest));
                let content = files.iter().map(place).collect();
                output.finish(content)?
            }
            None => {
                for (file, identity) in &files {
                    cache.link(&listing.commit, &file.path, identity)?;
                }
                cache.set_commit(&listing.commit)?;
                cache.snapshot(&listing.commit)
            }
        };
        let mut notes = Vec::new();
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
        let (commit, selection, files) = self.cached(name, patterns)?;
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

    /// What the cache has of a model, whole: commit, selection, all files.
    pub(crate) fn cached(
        &self,
        name: &Name,
        patterns: &Patterns,
    ) -> Result<(String, Selection, Vec<String>)> {
        let cache = self.repository(name);
        let missing = |what: String| {
            Error::new(name.to_string(), ErrorKind::Offline(what)).with_remedy(Remedy::GoOnline)
        };
        let Some(commit) = cache.commit() else {
            let folder = self.client.settings().cache.display();
            return Err(missing(format!("not in the cache {folder}")));
        };
        let names = cache.files(&commit);
        let incomplete = |what| missing(format!("not complete in the cache: {what}"));
        let selection = choose(&names, name, patterns).map_err(incomplete)?;
        let mut files = selection.files();
        if let Some(Weights::Index(index)) = &selection.weights {
            let text = download::read(&cache.snapshot(&commit).join(index), LARGEST_INDEX)?;
            let shards = select::shards(index, &text, &names).map_err(incomplete)?;
            files.splice(1..1, shards.into_iter().filter(|s| patterns.pick(s)));
        }
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
            match select::shards(index, &text, &listing.names()) {
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
pub(crate) fn choose(
    names: &BTreeSet<String>,
    name: &Name,
    patterns: &Patterns,
) -> Result<Selection, String> {
    if patterns.include_given() {
        let picked: BTreeSet<String> = names.iter().filter(|n| patterns.pick(n)).cloned().collect();
        if picked.is_empty() {
            return Err("no file matches the patterns to include without matching one to exclude".to_owned());
        }
        // A model among them matters only for the file to open.
        let weights = select::select(&picked, name.choice()).ok().and_then(|s| s.weights);
        let own = weights.clone().map(|w| Selection { weights: Some(w), others: Vec::new() }.files());
        let own = own.unwrap_or_default();
        let others = picked.into_iter().filter(|n| !own.contains(n)).collect();
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
            let source = self.download(index, identity, &quiet, &AtomicBool::new(false))?;
            let place = if self.blobs.has(&identity) { self.blobs } else { &self.cache.blobs };
            let text = download::read(&place.path(&identity.digest), LARGEST_INDEX)?;
            let shards = select::shards(index, &text, &names).map_err(refused)?;
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
        let missing: Vec<_> = first.iter().filter(|(_, i)| self.force || !self.is_here(i)).collect();
        let bytes = missing.iter().map(|(_, i)| i.size).sum();
        let left = missing.iter().map(|(_, i)| self.blobs.left(i)).sum();
        if !missing.is_empty() {
            std::fs::create_dir_all(&self.blobs.folder).map_err(|e| Error::disk(&self.blobs.folder, &e))?;
            space::check(&self.blobs.folder, left)?;
        }
        self.progress.total(missing.len(), bytes);
        let cancelled = AtomicBool::new(false);
        let sources = each(first, threads, &cancelled, |(file, identity), cancelled| {
            let source = self.download(&file, identity, self.progress, cancelled)?;
            Ok((PulledFile { path: file, bytes: identity.size, source }, identity))
        })?;
        let again = again.into_iter().map(|(path, identity)| {
            (PulledFile { path, bytes: identity.size, source: FileSource::Cache }, identity)
        });
        let mut all: Vec<_> = sources.into_iter().chain(again).collect();
        let order = |name: &str| wanted.iter().position(|(n, _)| n == name);
        all.sort_by_key(|(file, _)| order(&file.path));
        Ok(all)
    }

    /// Whether a blob is in its place already, or in the cache, from which it will be copied.
    fn is_here(&self, identity: &Identity) -> bool {
        self.blobs.has(identity) || self.cache.blobs.has(identity)
    }

    fn download(
        &self,
        file: &str,
        identity: Identity,
        progress: &dyn PullProgress,
        cancelled: &AtomicBool,
    ) -> Result<FileSource> {
        let force = self.force;
        if !force && self.is_here(&identity) {
            return Ok(FileSource::Cache);
        }
        let (client, listing, blobs) = (self.client, self.listing, self.blobs);
        Download { client, listing, blobs, file, identity, force, progress, cancelled }.run()
    }
}
