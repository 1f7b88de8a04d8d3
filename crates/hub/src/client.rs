//! Requests to the Hub over HTTP. Nothing in an answer is trusted unchecked.
//!
//! hf-hub's own transfers are not used: they check neither lengths nor hashes, and use names from the server as
//! paths unchecked. Requests go through ureq, which hf-hub uses too, with redirects followed here: the token is
//! sent only to the endpoint's scheme, host and port, and not again once a redirect has left them.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use quern_tensor_io::Remedy;
use ureq::{Agent, AgentBuilder, OrAnyStatus, Response};
use url::Url;

use crate::status::{self, Asked};
use crate::{Error, Result, Settings};

/// Redirects followed for one request.
const MOST_REDIRECTS: usize = 8;
/// What is read at a time.
pub(crate) const CHUNK: usize = 256 << 10;

/// A client of one endpoint.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    settings: Settings,
    requests: AtomicU64,
    received: AtomicU64,
}

/// A successful answer (2xx), with headers of the endpoint's own answers before it.
pub(crate) struct Answer {
    response: Response,
    /// `X-Linked-ETag`, or the ETag of the endpoint's own answer.
    pub etag: Option<String>,
    /// `X-Linked-Size`.
    pub linked_size: Option<u64>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.response.status()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.header(name)
    }

    /// The announced length of the body.
    pub fn length(&self) -> Option<u64> {
        self.header("Content-Length")?.trim().parse().ok()
    }

    /// First byte, last byte and whole length of a partial answer: `Content-Range: bytes 0-99/1234`.
    pub fn range(&self) -> Option<(u64, u64, u64)> {
        let (range, total) = self.header("Content-Range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
    }

    pub fn into_reader(self) -> Box<dyn Read + Send + Sync> {
        self.response.into_reader()
    }
}

impl Client {
    pub fn new(settings: Settings) -> Result<Self> {
        let mut builder = AgentBuilder::new()
            .redirects(0)
            .try_proxy_from_env(false)
            .timeout_connect(settings.timeout)
            .timeout_read(settings.timeout)
            .timeout_write(settings.timeout)
            .max_idle_connections_per_host(settings.connections)
            .user_agent(concat!("quern/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &settings.proxy {
            let bad = || {
                Error::usage("HTTPS_PROXY", "not the address of a proxy quern can use (http:// or socks5://)")
            };
            builder = builder.proxy(ureq::Proxy::new(proxy).map_err(|_| bad())?);
        }
        Ok(Self {
            agent: builder.build(),
            settings,
            requests: AtomicU64::new(0),
            received: AtomicU64::new(0),
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Requests sent so far, each redirect counted.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Bytes of bodies received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts bytes that a caller took from [`Answer::into_reader`].
    pub fn count(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An address below the endpoint; `path` is put there as it is, already escaped.
    pub fn url(&self, path: &str) -> Result<Url> {
        let text = format!("{}/{path}", self.settings.endpoint.as_str().trim_end_matches('/'));
        Url::parse(&text).map_err(|e| Error::usage(text, format!("not an address: {e}")))
    }

    /// Sends one request and follows redirects; any status but success is an error.
    pub fn ask(&self, method: &str, url: &Url, range: Option<&str>, asked: &Asked) -> Result<Answer> {
        let home = self.settings.endpoint.origin();
        let (mut url, mut at_home) = (url.clone(), true);
        let (mut etag, mut linked_size) = (None, None);
        for _ in 0..=MOST_REDIRECTS {
            at_home &= url.origin() == home;
            let mut request = self.agent.request_url(method, &url).set("Accept-Encoding", "identity");
            if let Some(range) = range {
                request = request.set("Range", range);
            }
            if let Some(token) = self.settings.token.as_ref().filter(|_| at_home) {
                request = request.set("Authorization", &format!("Bearer {}", token.reveal()));
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            let response =
                request.call().or_any_status().map_err(|e| unreachable(&e, &url, &self.settings))?;
            if at_home {
                let own = |name| response.header(name).map(str::to_owned);
                etag = own("X-Linked-ETag").or(etag).or_else(|| own("ETag"));
                linked_size = own("X-Linked-Size").and_then(|s| s.trim().parse().ok()).or(linked_size);
            }
            match response.status() {
                301 | 302 | 303 | 307 | 308 => url = self.target(&url, &response)?,
                200..=299 => return Ok(Answer { response, etag, linked_size }),
                _ if at_home => return Err(status::explain(&response, &url, asked, &self.settings)),
                status => return Err(status::foreign(status, &url)),
            }
        }
        Err(Error::untrusted(
            shown(&url),
            format!("more than {MOST_REDIRECTS} redirects; is HF_ENDPOINT right?"),
        ))
    }

    /// Requests a text of at most `most` bytes, again if the failure may be temporary. Also returns the `Link`
    /// header.
    pub fn text(&self, url: &Url, most: u64, asked: &Asked) -> Result<(Option<String>, Vec<u8>)> {
        self.again(|| {
            let answer = self.ask("GET", url, None, asked)?;
            let link = answer.header("Link").map(str::to_owned);
            let too_large = || {
                let what = format!("answers with more than the {most} bytes that can be expected there");
                Error::untrusted(shown(url), what)
            };
            if answer.length().is_some_and(|length| length > most) {
                return Err(too_large());
            }
            let body = self.body(answer, 0, most + 1, url)?;
            match body.len() as u64 > most {
                true => Err(too_large()),
                false => Ok((link, body)),
            }
        })
    }

    /// Requests the bytes `from..to` of a file of `size` bytes. If the server sends the file from its start, it is
    /// read as far as needed.
    pub fn range(&self, url: &Url, from: u64, to: u64, size: u64, asked: &Asked) -> Result<Vec<u8>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let whole = (from, to) == (0, size);
        let header = format!("bytes={from}-{}", to - 1);
        self.again(|| {
            let answer = self.ask("GET", url, Some(header.as_str()).filter(|_| !whole), asked)?;
            let skip = match (answer.status(), answer.range()) {
                (206, Some((first, _, total))) if (first, total) == (from, size) => 0,
                (200, _) if answer.length().is_none_or(|length| length == size) => from,
                _ => {
                    let what = format!(
                        "asked for the bytes {from} to {to} of {size}, but the server sends others (status {}, \
                         {:?})",
                        answer.status(),
                        answer.header("Content-Range").unwrap_or_default()
                    );
                    return Err(Error::untrusted(shown(url), what));
                }
            };
            let body = self.body(answer, skip, to - from, url)?;
            match body.len() as u64 == to - from {
                true => Ok(body),
                false => Err(Error::unreachable(shown(url), "the answer ended early")),
            }
        })
    }

    /// Skips `skip` bytes of a body, then reads at most `most`.
    fn body(&self, answer: Answer, skip: u64, most: u64, url: &Url) -> Result<Vec<u8>> {
        let mut reader = answer.into_reader();
        let mut body = Vec::new();
        let skipped = io::copy(&mut reader.by_ref().take(skip), &mut io::sink());
        let read = skipped.and_then(|n| Ok(n + reader.take(most).read_to_end(&mut body)? as u64));
        self.count(read.as_ref().map_or(body.len() as u64, |n| *n));
        read.map_err(|e| broken(&e, url, &self.settings))?;
        Ok(body)
    }

    /// Repeats requests whose failure may be temporary, with growing pauses, a bounded number of times.
    pub fn again<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt() {
                Err(e) if failures < e.retries() => {
                    thread::sleep(self.pause(failures, e.wait));
                    failures += 1;
                }
                done => return done,
            }
        }
    }

    /// The pause after `failures` failures: doubled with each, or the one the server requested.
    pub fn pause(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.settings.backoff.saturating_mul(1 << failures.min(10));
        asked.unwrap_or(doubled).min(Error::LONGEST_WAIT)
    }

    /// Where a redirect leads: to http or https, never from https to http.
    fn target(&self, from: &Url, response: &Response) -> Result<Url> {
        let bad = |what: &str| Error::untrusted(shown(from), format!("redirects {what}"));
        let location = response.header("Location").ok_or_else(|| bad("to nowhere"))?;
        let mut to = from.join(location).map_err(|_| bad("to something that is no address"))?;
        match (from.scheme(), to.scheme()) {
            (_, "https") | ("http", "http") => {}
            ("https", "http") => return Err(bad("from https to http, which is not followed")),
            _ => return Err(bad("to something that is no web address")),
        }
        if to.host_str().is_none_or(str::is_empty) {
            return Err(bad("to an address without a host"));
        }
        // A name and password in the address would be sent as credentials.
        let _ = to.set_username("").and_then(|()| to.set_password(None));
        Ok(to)
    }
}

/// An address without its query, which may hold a signature.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// A request that got no answer.
fn unreachable(e: &ureq::Transport, url: &Url, settings: &Settings) -> Error {
    use std::error::Error as _;
    let io = e.source().and_then(|s| s.downcast_ref::<io::Error>());
    // A refused connection will be refused again in a few seconds; a name server or a proxy may fail only once.
    let (what, patience) = match (e.kind(), io.map(|io| (io.kind(), io))) {
        (ureq::ErrorKind::Dns, _) => {
            (format!("the name {} is not known: no network, or no such host", host(url)), 1)
        }
        (_, Some((io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock, _))) => {
            (silent(settings), Error::RETRIES)
        }
        (_, Some((io::ErrorKind::InvalidData, tls))) => {
            let advice = "a proxy may be intercepting the connection, or the clock is wrong";
            (format!("no secure connection to {} ({tls}): {advice}", host(url)), 0)
        }
        (_, Some((kind, _))) => (format!("no connection to {} ({kind})", host(url)), 1),
        (kind, None) => (format!("no connection to {} ({kind})", host(url)), 1),
    };
    let nobody = patience == 1;
    let error = Error::unreachable(shown(url), what).with_patience(patience);
    if nobody { error.with_remedy(Remedy::UseCache) } else { error }
}

/// A body that ended early.
pub(crate) fn broken(e: &io::Error, url: &Url, settings: &Settings) -> Error {
    let what = match e.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => silent(settings),
        _ => format!("the connection broke ({e})"),
    };
    Error::unreachable(shown(url), what)
}

fn silent(settings: &Settings) -> String {
    format!(
        "no answer for {} seconds; try again, or wait longer with HF_HUB_DOWNLOAD_TIMEOUT",
        settings.timeout.as_secs_f64()
    )
}
