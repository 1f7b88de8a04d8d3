//! What a failed transfer means: no connection, a broken, silent or slow one, or an answer that is not HTTP.

use std::io;

use quern_tensor_io::Remedy;
use url::Url;

use crate::clean::clean;
use crate::meter::GivenUp;
use crate::{Error, Settings};

/// An address without its query, which may hold a signature, and without an end that nobody would read.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    clean(url.as_str())
}

fn host(url: &Url) -> String {
    clean(url.host_str().unwrap_or_default())
}

/// A request that got no answer, or one that is not HTTP.
pub(crate) fn unreachable(e: ureq::Error, url: &Url, settings: &Settings) -> Error {
    // A refused connection will be refused again in a few seconds; a name server or a proxy may fail only once.
    let (what, patience) = match &e {
        ureq::Error::HostNotFound => {
            (format!("the name {} is not known: no network, or no such host", host(url)), 1)
        }
        ureq::Error::Timeout(_) => (silent(settings), Error::RETRIES),
        ureq::Error::Io(io) if GivenUp::of(io).is_some() || is_silence(io) => {
            return broken(io, url, settings);
        }
        ureq::Error::Rustls(tls) => (insecure(&tls.to_string(), url), 0),
        ureq::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => (insecure(&io.to_string(), url), 0),
        ureq::Error::Protocol(_)
        | ureq::Error::Http(_)
        | ureq::Error::BadUri(_)
        | ureq::Error::LargeResponseHeader(..) => return no_http(&e, url),
        ureq::Error::Io(io) => (format!("no connection to {} ({})", host(url), io.kind()), 1),
        e => (format!("no connection to {} ({})", host(url), clean(&e.to_string())), 1),
    };
    let nobody = patience == 1;
    let error = Error::unreachable(shown(url), what).with_patience(patience);
    if nobody { error.with_remedy(Remedy::UseCache) } else { error }
}

fn insecure(why: &str, url: &Url) -> String {
    let advice = "a proxy may be intercepting the connection, or the clock is wrong";
    format!("no secure connection to {} ({}): {advice}", host(url), clean(why))
}

fn no_http(e: &ureq::Error, url: &Url) -> Error {
    let what = format!("its answer is not valid HTTP ({}); is HF_ENDPOINT right?", clean(&e.to_string()));
    Error::untrusted(shown(url), what)
}

/// Whether a connection timed out, as ureq or the system says it.
fn is_silence(e: &io::Error) -> bool {
    let ureq = e.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
        || matches!(ureq, Some(ureq::Error::Timeout(_)))
}

/// A body that ended early, came too slowly, or does not end.
pub(crate) fn broken(e: &io::Error, url: &Url, settings: &Settings) -> Error {
    match (GivenUp::of(e), e.get_ref().and_then(|inner| inner.downcast_ref())) {
        (Some(slow @ GivenUp::Slow { .. }), _) => {
            let least = quern_tensor_io::output::human_bytes(settings.patience.slowest);
            let what = format!("{slow}, and less than {least} a second is given up; try again later");
            Error::unreachable(shown(url), what).with_patience(Error::RETRIES_IF_SLOW)
        }
        (Some(why @ (GivenUp::Endless | GivenUp::Late)), _) => {
            Error::untrusted(shown(url), format!("{why}; is HF_ENDPOINT right?"))
        }
        (None, Some(protocol @ (ureq::Error::Protocol(_) | ureq::Error::BodyStalled))) => {
            no_http(protocol, url)
        }
        (None, _) if is_silence(e) => Error::unreachable(shown(url), silent(settings)),
        (None, _) => {
            Error::unreachable(shown(url), format!("the connection broke ({})", clean(&e.to_string())))
        }
    }
}

fn silent(settings: &Settings) -> String {
    format!(
        "no answer for {} seconds; try again, or wait longer with HF_HUB_DOWNLOAD_TIMEOUT",
        settings.timeout.as_secs_f64()
    )
}
