//! What a repository holds: its commit, and every file with size and hash.
//!
//! ```text
//! GET /api/models/ORG/NAME/revision/REV               {"sha": COMMIT, "siblings": [{"rfilename": ..}, ..]}
//! GET /api/models/ORG/NAME/tree/COMMIT?recursive=true [{"type": "file", "path": .., "size": .., "oid": ..,
//!                                                       "lfs": {"oid": .., "size": ..}}, ..], in pages (`Link`)
//! HEAD /ORG/NAME/resolve/COMMIT/FILE                  ETag, Content-Length; where a mirror has no tree
//! ```
//!
//! The addresses are those hf-hub makes ([`hf_hub::Repo`]); the answers are read here, in bounds.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use hf_hub::{Repo, RepoType};
use serde::Deserialize;
use url::Url;

use crate::client::{Client, shown};
use crate::digest::{Digest, is_commit};
use crate::error::ErrorKind;
use crate::status::{self, Asked};
use crate::{Error, Name, Result, path};

/// Bounds: the largest real repositories have some ten thousand files, a page of the tree has 1000.
const MOST_JSON: u64 = 64 << 20;
const MOST_PAGES: usize = 1000;
const MOST_FILES: usize = 1 << 20;

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
    files: BTreeMap<String, Option<Identity>>,
    /// Names that are not safe as paths and must not be written.
    pub unsound: Vec<String>,
}

#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    #[serde(default)]
    oid: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: Option<u64>,
}

impl Listing {
    /// Requests the commit of a name and the list of its files.
    pub fn fetch(client: &Client, name: &Name) -> Result<Self> {
        let asked = Asked { repository: name.repository(), revision: name.revision(), file: None };
        let info = info(client, &repo(name.repository(), name.revision()), &asked)?;
        let commit = info.sha.unwrap_or_default();
        if !is_commit(&commit) {
            let what = format!("the server gives the commit {:?}, which is not a commit id", brief(&commit));
            return Err(Error::untrusted(name.repository(), what));
        }
        let mut listing = Self {
            repository: name.repository().to_owned(),
            revision: name.revision().to_owned(),
            commit,
            files: BTreeMap::new(),
            unsound: Vec::new(),
        };
        match tree(client, &listing, &asked) {
            Ok(entries) => entries.into_iter().try_for_each(|e| listing.add(e))?,
            // Some mirrors have no tree; the names are in the other answer.
            Err(Error { kind: ErrorKind::NotFound(_), .. }) if !info.siblings.is_empty() => {
                info.siblings.into_iter().for_each(|s| listing.insert(s.rfilename, None));
            }
            Err(e) => return Err(e),
        }
        Ok(listing)
    }

    /// Names of all files.
    pub fn names(&self) -> BTreeSet<String> {
        self.files.keys().cloned().collect()
    }

    /// The address of a file at this commit.
    pub fn url(&self, client: &Client, file: &str) -> Result<Url> {
        let repo = repo(&self.repository, &self.commit);
        let mut url = client.url(&format!("{}/resolve/{}", repo.url(), repo.url_revision()))?;
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
        let answer = client.again(|| client.ask("HEAD", &url, None, &self.asked(file)))?;
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

    fn add(&mut self, entry: Entry) -> Result<()> {
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
            let what = "the server gives two different sizes for this file";
            return Err(Error::untrusted(format!("{}/{}", self.repository, brief(&entry.path)), what));
        }
        self.insert(entry.path, identity);
        Ok(())
    }

    fn insert(&mut self, name: String, identity: Option<Identity>) {
        match path::fault(&name) {
            None => drop(self.files.insert(name, identity)),
            Some(_) => self.unsound.push(name),
        }
    }
}

/// hf-hub's view of a repository, which knows addresses and folder names.
pub(crate) fn repo(repository: &str, revision: &str) -> Repo {
    Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned())
}

fn info(client: &Client, repo: &Repo, asked: &Asked) -> Result<Info> {
    let url = client.url(&format!("api/{}", repo.api_url()))?;
    let (_, text) = match client.text(&url, MOST_JSON, asked) {
        // A mirror may not say what is missing: a request for the repository itself shows it.
        Err(e) if matches!(e.kind, ErrorKind::NotFound(_)) => {
            let plain = client.url(&format!("api/models/{}", repo.url()))?;
            return Err(match client.text(&plain, MOST_JSON, asked) {
                Ok(_) => Error::new(e.subject, status::no_revision(asked)),
                Err(_) => e,
            });
        }
        answer => answer?,
    };
    parse(&url, &text)
}

/// All pages of the tree.
fn tree(client: &Client, listing: &Listing, asked: &Asked) -> Result<Vec<Entry>> {
    let first =
        client.url(&format!("api/models/{}/tree/{}?recursive=true", listing.repository, listing.commit))?;
    let mut url = first.clone();
    let (mut entries, mut seen) = (Vec::new(), HashSet::new());
    for _ in 0..MOST_PAGES {
        let (link, text) = client.text(&url, MOST_JSON, asked)?;
        entries.append(&mut parse::<Vec<Entry>>(&url, &text)?);
        if entries.len() > MOST_FILES {
            return Err(Error::untrusted(shown(&url), format!("lists more than {MOST_FILES} files")));
        }
        let Some(next) = link.as_deref().and_then(|link| next_page(&url, link)) else {
            return Ok(entries);
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

/// The address marked `rel="next"` in a `Link` header.
fn next_page(base: &Url, link: &str) -> Option<Url> {
    link.split(',').find_map(|part| {
        let (address, parameters) = part.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
        next.then(|| base.join(address).ok()).flatten()
    })
}

fn parse<T: for<'de> Deserialize<'de>>(url: &Url, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| {
        Error::untrusted(
            shown(url),
            format!("its answer does not have the form of the Hub's: {e}; is HF_ENDPOINT right?"),
        )
    })
}

/// A text from the server, as a message quotes it.
pub(crate) fn brief(text: &str) -> String {
    text.chars().take(80).collect()
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
