//! The messages a user gets when the Hub refuses a request.

use quern_hub::{ErrorKind, PullOptions};

use crate::fake_hub::{FakeHub, Response};
use crate::{Place, sharded};

#[test]
fn repository_revision_and_file_are_distinguished() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let repository = place.refused("org/other");
    assert!(repository.contains("there is no model org/other on 127.0.0.1"), "{repository}");
    assert!(repository.contains("set HF_TOKEN"), "{repository}");
    let with_token = Place::new(&server).with_token().refused("org/other");
    assert!(with_token.contains("the token in HF_TOKEN may not read it"), "{with_token}");
    let revision = place.refused("org/model@v9");
    assert!(revision.contains("no revision \"v9\""), "{revision}");
    let file = place.refused("org/model:absent.gguf");
    assert!(file.contains("org/model:absent.gguf") && file.contains("no such file"), "{file}");
}

#[test]
fn mirrors_that_say_nothing_but_404_are_understood() {
    let server = FakeHub::hooked(sharded(), |r| {
        (r.target.contains("org/other") || r.target.contains("v9")).then(|| Response::new(404, ""))
    });
    let place = Place::new(&server);
    assert!(place.refused("org/other").contains("there is no model org/other"));
    assert!(place.refused("org/model@v9").contains("no revision \"v9\""));
    // A file that is in the list, but missing when it is requested.
    let server =
        FakeHub::hooked(sharded(), |r| r.target.ends_with("config.json").then(|| Response::new(404, "")));
    let error = Place::new(&server).refused("org/model");
    assert!(error.contains("org/model/config.json: no such file at revision \"main\""), "{error}");
}

#[test]
fn gated_models_say_where_to_accept_the_licence() {
    for status in [401, 403] {
        let server = FakeHub::hooked(sharded(), move |r| {
            r.target.contains("/resolve/").then(|| {
                Response::new(status, "")
                    .with("X-Error-Code", "GatedRepo")
                    .with("X-Error-Message", "Access to model is restricted")
            })
        });
        let place = Place::new(&server);
        let error = place.refused("org/model");
        let page = format!("{}/org/model", server.endpoint());
        assert!(
            error.contains("gated") && error.contains(&page) && error.contains("set HF_TOKEN"),
            "{error}"
        );
        let error = Place::new(&server).with_token().refused("org/model");
        assert!(error.contains("with the account that the token in HF_TOKEN belongs to"), "{error}");
        assert!(!error.contains("hf_secret"));
    }
}

#[test]
fn a_bad_token_and_a_forbidden_one() {
    let server = FakeHub::hooked(sharded(), |_| {
        Some(Response::new(401, "").with("X-Error-Message", "Invalid credentials in Authorization header"))
    });
    let error = Place::new(&server).with_token().refused("org/model");
    assert!(error.contains("does not accept the token"), "{error}");
    let server = FakeHub::hooked(sharded(), |_| {
        Some(Response::new(403, "").with("X-Error-Message", "Forbidden: pass a token"))
    });
    let error = Place::new(&server).refused("org/model");
    assert!(error.contains("refuses access (Forbidden: pass a token"), "{error}");
    let server = FakeHub::hooked(sharded(), |_| Some(Response::new(418, "")));
    assert!(Place::new(&server).refused("org/model").contains("status 418"));
}

#[test]
fn a_web_page_in_place_of_an_answer_is_no_list_of_files() {
    let server =
        FakeHub::hooked(sharded(), |_| Some(Response::new(200, "<html>Log in to this network</html>")));
    let error = Place::new(&server).refused("org/model");
    assert!(
        error.contains("does not have the form of the Hub's") && error.contains("HF_ENDPOINT"),
        "{error}"
    );
}

#[test]
fn the_first_failure_stops_the_rest_and_is_reported() {
    let server = FakeHub::hooked(sharded(), |r| {
        r.target
            .ends_with("tokenizer.json")
            .then(|| Response::new(404, "").with("X-Error-Code", "EntryNotFound"))
    });
    let place = Place::new(&server);
    let error = place.pull_with("org/model", &PullOptions::default()).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::NotFound(_)), "{error}");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let server = FakeHub::new(sharded());
    let mut place = Place::new(&server);
    place.settings.cache = "/proc/cache".into();
    let error = place.pull("org/model").unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Disk(_)) && error.to_string().contains("/proc/cache"), "{error}");
}
