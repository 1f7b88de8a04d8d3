//! Requests to the Hub over HTTP. Nothing in an answer is trusted unchecked.
//!
//! Requests go through ureq, with redirects followed here: the token is sent only to the endpoint's scheme, host and
//! port, and not again once a redirect has left them. ureq bounds an answer's head (64 KiB, 128 fields) and the lines
//! between chunks; [`crate::meter`] bounds everything that arrives, and how slowly it may.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, StatusCode};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs};
use ureq::unversioned::transport::{
    ConnectProxyConnector, Connector, NextTimeout, RustlsConnector, SocksConnector, TcpConnector, time,
};
use ureq::{Agent, Body};
use url::Url;

use crate::clean::brief;
use crate::failure::{broken, shown, unreachable};
use crate::meter::{self, Meter};
use crate::settings::Patience;
use crate::status::{self, Asked};
use crate::{Error, Result, Settings};

/// Redirects followed for one request.
const MOST_REDIRECTS: usize = 8;
/// What is read at a time.
pub(crate) const CHUNK: usize = 256 << 10;
/// The largest head of an answer: the Hub's have 2 KiB, of which most is a signed address.
const LARGEST_HEAD: usize = 64 << 10;
/// The body of a redirect is read up to here, so that its connection can be used again.
const REDIRECT_BODY: u64 = 4 << 10;

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
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
    /// `X-Linked-ETag`, or the ETag of the endpoint's own answer.
    pub etag: Option<String>,
    /// `X-Linked-Size`.
    pub linked_size: Option<u64>,
}

/// A header's value as text; `None` if it is not there or not UTF-8.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    std::str::from_utf8(headers.get(name)?.as_bytes()).ok()
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
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

    pub fn into_reader(self) -> impl Read {
        self.body.into_reader()
    }
}

/// What an answer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of the body.
    pub bytes: u64,
    /// When the last of them must be here.
    pub until: Option<Instant>,
}

impl Bounds {
    /// An answer of so many bytes that must end in the time for one answer.
    pub fn new(bytes: u64, patience: &Patience) -> Self {
        Self { bytes, until: Instant::now().checked_add(patience.answer) }
    }
}

impl Client {
    pub fn new(settings: Settings) -> Result<Self> {
        let timeout = Some(settings.timeout);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(LARGEST_HEAD)
            .timeout_connect(timeout)
            .timeout_per_read(timeout)
            .timeout_per_write(timeout)
            .max_idle_connections(2 * settings.connections)
            .max_idle_connections_per_host(settings.connections)
            .user_agent(concat!("quern/", env!("CARGO_PKG_VERSION")))
            .proxy(None);
        if let Some(proxy) = &settings.proxy {
            let bad = || {
                Error::usage("HTTPS_PROXY", "not the address of a proxy quern can use (http:// or socks5://)")
            };
            config = config.proxy(Some(ureq::Proxy::new(proxy).map_err(|_| bad())?));
        }
        let connector =
            ().chain(SocksConnector::default())
                .chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(Meter(settings.patience))
                .chain(RustlsConnector::default());
        Ok(Self {
            agent: Agent::with_parts(config.build(), connector, Resolver::default()),
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
    pub fn ask(
        &self,
        method: &str,
        url: &Url,
        range: Option<&str>,
        bounds: Bounds,
        asked: &Asked,
    ) -> Result<Answer> {
        let home = self.settings.endpoint.origin();
        let (mut url, mut at_home) = (url.clone(), true);
        let (mut etag, mut linked_size) = (None, None);
        for _ in 0..=MOST_REDIRECTS {
            at_home &= url.origin() == home;
            meter::allow(bounds.bytes, bounds.until);
            let mut request = ureq::http::Request::builder()
                .method(method)
                .uri(url.as_str())
                .header("Accept-Encoding", "identity");
            if let Some(range) = range {
                request = request.header("Range", range);
            }
            if let Some(token) = self.settings.token.as_ref().filter(|_| at_home) {
                request = request.header("Authorization", format!("Bearer {}", token.reveal()));
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            let response = request.body(()).map_err(ureq::Error::from).and_then(|r| self.agent.run(r));
            let (head, body) = response.map_err(|e| unreachable(e, &url, &self.settings))?.into_parts();
            let own = |name| header(&head.headers, name);
            if at_home {
                etag = own("X-Linked-ETag")
                    .map(str::to_owned)
                    .or(etag)
                    .or_else(|| own("ETag").map(str::to_owned));
                linked_size = own("X-Linked-Size").and_then(|s| s.trim().parse().ok()).or(linked_size);
            }
            match head.status.as_u16() {
                301 | 302 | 303 | 307 | 308 => {
                    url = target(&url, own("Location"))?;
                    // What fails here fails for the connection alone.
                    let _ = io::copy(&mut body.into_reader().take(REDIRECT_BODY), &mut io::sink());
                }
                200..=299 => {
                    if let Some(encoding) =
                        own("Content-Encoding").filter(|e| !e.eq_ignore_ascii_case("identity"))
                    {
                        let what = format!(
                            "the answer is compressed ({:?}), which was not asked for; is a proxy in between, or \
                             HF_ENDPOINT no Hub?",
                            brief(encoding)
                        );
                        return Err(Error::untrusted(shown(&url), what));
                    }
                    return Ok(Answer {
                        status: head.status,
                        headers: head.headers,
                        body,
                        etag,
                        linked_size,
                    });
                }
                _ if at_home => return Err(status::explain(&head, &url, asked, &self.settings)),
                status => return Err(status::foreign(status, &url)),
            }
        }
        Err(Error::untrusted(
            shown(&url),
            format!("more than {MOST_REDIRECTS} redirects; is HF_ENDPOINT right?"),
        ))
    }

    /// Requests a text within `bounds`, again if the failure may be temporary. Also returns the `Link` header.
    pub fn text(&self, url: &Url, bounds: Bounds, asked: &Asked) -> Result<(Option<String>, Vec<u8>)> {
        let most = bounds.bytes;
        self.again(|| {
            let answer = self.ask("GET", url, None, bounds, asked)?;
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
        // A server without ranges sends what comes before, too.
        let bounds = || Bounds::new(to, &self.settings.patience);
        self.again(|| {
            let range = Some(header.as_str()).filter(|_| !whole);
            let answer = self.ask("GET", url, range, bounds(), asked)?;
            let skip = match (answer.status(), answer.range()) {
                (206, Some((first, _, total))) if (first, total) == (from, size) => 0,
                (200, _) if answer.length().is_none_or(|length| length == size) => from,
                _ => {
                    let what = format!(
                        "asked for the bytes {from} to {to} of {size}, but the server sends others (status {}, \
                         {:?})",
                        answer.status(),
                        brief(answer.header("Content-Range").unwrap_or_default())
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
}

/// Asks the system for addresses, on this thread: ureq would start one for its timeout, and panics where the system
/// refuses it. The system's own timeouts are some seconds.
#[derive(Debug, Default)]
struct Resolver(DefaultResolver);

impl ureq::unversioned::resolver::Resolver for Resolver {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let timeout = NextTimeout { after: time::Duration::NotHappening, ..timeout };
        self.0.resolve(uri, config, timeout).map_err(|_| ureq::Error::HostNotFound)
    }
}

/// Where a redirect leads: to http or https, never from https to http.
fn target(from: &Url, location: Option<&str>) -> Result<Url> {
    let bad = |what: &str| Error::untrusted(shown(from), format!("redirects {what}"));
    let location = location.ok_or_else(|| bad("to nowhere"))?;
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
