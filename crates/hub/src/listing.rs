//! What a repository holds: its commit, and every file with size and hash.
//!
//! ```text
//! GET /api/models/ORG/NAME/revision/REV               {"sha": COMMIT, "siblings": [{"rfilename": ..}, ..]}
//! GET /api/models/ORG/NAME/tree/COMMIT?recursive=true [{"type": "file", "path": .., "size": .., "oid": ..,
//!                                                       "lfs": {"oid": .., "size": ..}}, ..], in pages (`Link`)
//! HEAD /ORG/NAME/resolve/COMMIT/FILE                  ETag, Content-Length; where a mirror has no tree
//! ```
//!
//! Answers are read in bounds, and entries go straight from a page into the list, which keeps each name once.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use url::Url;

use crate::clean::{brief, clean};
use crate::client::{Bounds, Client};
use crate::digest::{Digest, is_commit};
use crate::error::ErrorKind;
use crate::failure::shown;
use crate::status::{self, Asked};
use crate::{Error, Name, Result, path};

// Bounds. The largest real repositories have some 10^5 files, which is also what the Hub advises as the most.

/// The first answer: all names, and what the model's card and header say. 10^5 names of 100 bytes are 12 MiB.
const LARGEST_INFO: u64 = 32 << 20;
/// A page of the tree: 1000 entries of some 400 bytes.
const LARGEST_PAGE: u64 = 8 << 20;
/// All pages: three times those of 10^5 files.
const LARGEST_TREE: u64 = 128 << 20;
const MOST_PAGES: usize = 1000;
/// At some 150 bytes beside its name, a list of as many takes 40 MiB.
const MOST_FILES: usize = 1 << 18;
/// All names together.
const MOST_NAME_BYTES: usize = 32 << 20;

/// Names of files, sorted. The texts are shared with the list they come from.
pub(crate) type Names = BTreeSet<Arc<str>>;

/// Size and hash of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub size: u64,
    pub digest: Digest,
}

/// A repository at one commit.
#[derive(Debug)]
pub(crate) struct Listing {
    /// `org/name`.
    pub repository: String,
    /// The revision asked for.
    pub revision: String,
    /// 40 hex digits.
    pub commit: String,
    /// Every file with a valid name; its identity where the tree gives it.
    files: BTreeMap<Arc<str>, Option<Identity>>,
    /// Names that are not safe as paths and must not be written, cut where they are very long.
    pub unsound: Vec<String>,
    name_bytes: usize,
}

#[derive(Deserialize)]
struct Info<'a> {
    #[serde(borrow)]
    sha: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Sibling<'a> {
    #[serde(borrow)]
    rfilename: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow, default)]
    oid: Cow<'a, str>,
    size: Option<u64>,
    #[serde(borrow)]
    lfs: Option<Lfs<'a>>,
}

#[derive(Deserialize)]
struct Lfs<'a> {
    #[serde(borrow)]
    oid: Cow<'a, str>,
    size: Option<u64>,
}

impl Listing {
    /// Requests the commit of a name and the list of its files.
    pub fn fetch(client: &Client, name: &Name) -> Result<Self> {
        let asked = Asked { repository: name.repository(), revision: name.revision(), file: None };
        // One time for all answers, which are requested one after the other.
        let until = Instant::now().checked_add(client.settings().patience.answer);
        let (url, text) = info(client, name, until, &asked)?;
        let commit = parse::<Info>(&url, &text)?.sha.unwrap_or_default();
        if !is_commit(&commit) {
            let what = format!("the server gives the commit {:?}, which is not a commit id", brief(&commit));
            return Err(Error::untrusted(name.repository(), what));
        }
        let mut listing = Self {
            repository: name.repository().to_owned(),
            revision: name.revision().to_owned(),
            commit: commit.into_owned(),
            files: BTreeMap::new(),
            unsound: Vec::new(),
            name_bytes: 0,
        };
        match listing.tree(client, until, &asked) {
            // Some mirrors have no tree; the names are in the other answer.
            Err(Error { kind: ErrorKind::NotFound(_), .. })
                if listing.read(&url, &text, Form::Siblings)? > 0 =>
            {
                Ok(listing)
            }
            done => done.map(|()| listing),
        }
    }

    /// Names of all files.
    pub fn names(&self) -> Names {
        self.files.keys().cloned().collect()
    }

    /// The address of a file at this commit.
    pub fn url(&self, client: &Client, file: &str) -> Result<Url> {
        let mut url = client.url(&format!("{}/resolve/{}", self.repository, self.commit))?;
        // `url_path_segments_mut` escapes what has a meaning in an address.
        url.path_segments_mut().map_err(|()| Error::usage(file, "not an address"))?.extend(file.split('/'));
        Ok(url)
    }

    /// The subject of a request for this file.
    pub fn asked<'a>(&'a self, file: &'a str) -> Asked<'a> {
        Asked { repository: &self.repository, revision: &self.revision, file: Some(file) }
    }

    /// Size and hash of a file, requested where the listing does not give them.
    pub fn identity(&self, client: &Client, file: &str) -> Result<Identity> {
        if let Some(Some(identity)) = self.files.get(file) {
            return Ok(*identity);
        }
        let url = self.url(client, file)?;
        let answer = client.again(|| {
            let bounds = Bounds::new(0, &client.settings().patience);
            client.ask("HEAD", &url, None, bounds, &self.asked(file))
        })?;
        let subject = || format!("{}/{file}", self.repository);
        let etag = answer.etag.as_deref().unwrap_or_default();
        let Some(digest) = Digest::parse(etag) else {
            let what = format!(
                "the server's ETag {:?} is not the hash of a file (40 or 64 hex digits); is HF_ENDPOINT a mirror of \
                 the Hub?",
                brief(etag)
            );
            return Err(Error::untrusted(subject(), what));
        };
        match answer.linked_size.or(answer.length()) {
            Some(size) => Ok(Identity { size, digest }),
            None => Err(Error::untrusted(subject(), "the server does not say how long the file is")),
        }
    }

    /// All pages of the tree.
    fn tree(&mut self, client: &Client, until: Option<Instant>, asked: &Asked) -> Result<()> {
        let first =
            client.url(&format!("api/models/{}/tree/{}?recursive=true", self.repository, self.commit))?;
        let mut url = first.clone();
        let (mut left, mut seen) = (LARGEST_TREE, HashSet::new());
        for _ in 0..MOST_PAGES {
            let bounds = Bounds { bytes: LARGEST_PAGE.min(left), until };
            let (link, text) = client.text(&url, bounds, asked)?;
            left -= text.len() as u64;
            self.read(&url, &text, Form::Tree)?;
            let Some(next) = link.as_deref().and_then(|link| next_page(&url, link)) else {
                return Ok(());
            };
            // Only the query is used: a mirror's page may name the Hub, and must not lead to another server.
            url = first.clone();
            url.set_query(next.query());
            if !seen.insert(url.query().map(str::to_owned)) {
                break;
            }
        }
        Err(Error::untrusted(shown(&first), "its list of files has too many pages"))
    }

    /// Adds the files of an answer, and returns how many it has.
    fn read(&mut self, url: &Url, text: &[u8], form: Form) -> Result<usize> {
        let mut refused = None;
        let mut json = serde_json::Deserializer::from_slice(text);
        let filling = Filling { listing: self, form, refused: &mut refused };
        let filled = filling.deserialize(&mut json).and_then(|count| json.end().map(|()| count));
        filled.map_err(|e| refused.unwrap_or_else(|| not_the_hub_s(url, &e)))
    }

    fn add(&mut self, entry: &Entry) -> Result<()> {
        if entry.r#type != "file" {
            return Ok(());
        }
        let (hash, size) = match &entry.lfs {
            Some(lfs) => (&lfs.oid, lfs.size.or(entry.size)),
            None => (&entry.oid, entry.size),
        };
        let digest = Digest::parse(hash).filter(|d| matches!(d, Digest::Sha256(_)) == entry.lfs.is_some());
        let identity = digest.and_then(|digest| Some(Identity { size: size?, digest }));
        if entry.lfs.as_ref().and_then(|l| l.size).is_some_and(|size| entry.size.is_some_and(|s| s != size)) {
            let what = format!("the server gives two different sizes for the file {:?}", brief(&entry.path));
            return Err(Error::untrusted(&self.repository, what));
        }
        self.insert(&entry.path, identity)
    }

    fn insert(&mut self, name: &str, identity: Option<Identity>) -> Result<()> {
        match path::fault(name) {
            None => drop(self.files.insert(name.into(), identity)),
            Some(_) => self.unsound.push(name.chars().take(path::LONGEST / 4).collect()),
        }
        self.name_bytes += name.len().min(path::LONGEST);
        if self.files.len() + self.unsound.len() > MOST_FILES || self.name_bytes > MOST_NAME_BYTES {
            let most = quern_tensor_io::output::human_bytes(MOST_NAME_BYTES as u64);
            let what = format!("the server lists more than {MOST_FILES} files, or more than {most} of names");
            return Err(Error::untrusted(&self.repository, what));
        }
        Ok(())
    }
}

/// The form of a list of files.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// An object whose `siblings` are names.
    Siblings,
    /// An array of entries.
    Tree,
}

/// Puts what a parser finds into a listing, without a copy in between.
struct Filling<'a> {
    listing: &'a mut Listing,
    form: Form,
    /// The error of the listing; the parser's own cannot carry it.
    refused: &'a mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for Filling<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<usize, D::Error> {
        match self.form {
            Form::Siblings => json.deserialize_map(self),
            Form::Tree => json.deserialize_seq(self),
        }
    }
}

/// The names in an array of siblings.
struct Siblings<'a>(Filling<'a>);

impl<'de> DeserializeSeed<'de> for Siblings<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<usize, D::Error> {
        json.deserialize_seq(self.0)
    }
}

impl<'de> Visitor<'de> for Filling<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let Self { listing, form, refused } = self;
        let mut count = 0;
        while let Some(key) = map.next_key::<Cow<str>>()? {
            match &*key {
                "siblings" => {
                    let filling = Filling { listing: &mut *listing, form, refused: &mut *refused };
                    count += map.next_value_seed(Siblings(filling))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(count)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<usize, A::Error> {
        let mut count = 0;
        loop {
            let added = match self.form {
                Form::Tree => seq.next_element::<Entry>()?.map(|entry| self.listing.add(&entry)),
                Form::Siblings => {
                    seq.next_element::<Sibling>()?.map(|s| self.listing.insert(&s.rfilename, None))
                }
            };
            match added {
                None => return Ok(count),
                Some(Ok(())) => count += 1,
                Some(Err(e)) => {
                    *self.refused = Some(e);
                    return Err(serde::de::Error::custom("refused"));
                }
            }
        }
    }
}

/// The answer about the repository itself, and where it was found.
fn info(client: &Client, name: &Name, until: Option<Instant>, asked: &Asked) -> Result<(Url, Vec<u8>)> {
    let revision = name.revision().replace('/', "%2F");
    let url = client.url(&format!("api/models/{}/revision/{revision}", name.repository()))?;
    let bounds = Bounds { bytes: LARGEST_INFO, until };
    match client.text(&url, bounds, asked) {
        // A mirror may not say what is missing: a request for the repository itself shows it.
        Err(e) if matches!(e.kind, ErrorKind::NotFound(_)) => {
            let plain = client.url(&format!("api/models/{}", name.repository()))?;
            Err(match client.text(&plain, bounds, asked) {
                Ok(_) => Error::new(e.subject, status::no_revision(asked)),
                Err(_) => e,
            })
        }
        answer => answer.map(|(_, text)| (url, text)),
    }
}

/// The address marked `rel="next"` in a `Link` header.
fn next_page(base: &Url, link: &str) -> Option<Url> {
    link.split(',').find_map(|part| {
        let (address, parameters) = part.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
        next.then(|| base.join(address).ok()).flatten()
    })
}

fn parse<'a, T: Deserialize<'a>>(url: &Url, text: &'a [u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| not_the_hub_s(url, &e))
}

fn not_the_hub_s(url: &Url, e: &serde_json::Error) -> Error {
    let what = format!(
        "its answer does not have the form of the Hub's: {}; is HF_ENDPOINT right?",
        clean(&e.to_string())
    );
    Error::untrusted(shown(url), what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_its_header() {
        let base = Url::parse("https://h/api/tree?recursive=true").unwrap();
        let query = |link| next_page(&base, link).and_then(|u| u.query().map(str::to_owned));
        assert_eq!(query("<https://h/api/tree?cursor=a%3D>; rel=\"next\"").unwrap(), "cursor=a%3D");
        assert_eq!(query("<?cursor=b>; rel=\"prev\", <?cursor=c>; rel=\"next\"").unwrap(), "cursor=c");
        assert_eq!(query("<?cursor=b>; rel=\"prev\""), None);
        assert_eq!(query("nonsense"), None);
    }
}
