//! Who may ask.

use std::net::SocketAddr;

use asyncdiff_serve::{ServeError, Server};

use super::client::{Service, base64, settings};

fn with_key() -> Service {
    let mut settings = settings();
    settings.key = Some("sesame".to_owned());
    settings.allow_hosts = vec!["draw.local".to_owned()];
    settings.allow_origins = vec!["http://chat.local:3000".to_owned()];
    Service::start(settings)
}

#[test]
fn without_the_key_nothing_is_told() {
    let service = with_key();
    let paths = [
        ("GET", "/v1/models"),
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/images/edits"),
        ("GET", "/sdapi/v1/progress"),
        ("POST", "/sdapi/v1/interrupt"),
        ("GET", "/api/options"),
        ("POST", "/api/jobs"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
    ];
    for (method, path) in paths {
        for key in [None, Some("Bearer wrong"), Some("Basic d3Jvbmc=")] {
            let request = service.request(method, path);
            let request = match key {
                Some(key) => request.header("Authorization", key),
                None => request,
            };
            assert_eq!(request.send().status, 401, "{path}");
        }
    }
    let error = service.get("/v1/models").json(401);
    assert_eq!(error["error"]["code"], "invalid_api_key");
    assert_eq!(
        service.get("/v1/models").header("www-authenticate"),
        Some("Bearer")
    );
    let of_web_ui = service.get("/sdapi/v1/options");
    assert!(
        of_web_ui
            .header("www-authenticate")
            .unwrap()
            .starts_with("Basic")
    );

    let basic = format!("Basic {}", base64(b"anybody:sesame"));
    for key in ["Bearer sesame", &basic] {
        for path in [
            "/v1/models",
            "/sdapi/v1/options",
            "/api/options",
            "/metrics",
        ] {
            let answer = service
                .request("GET", path)
                .header("Authorization", key)
                .send();
            assert_eq!(answer.status, 200, "{path}");
        }
    }
    // The page asks for the key itself.
    for path in ["/", "/health", "/docs", "/openapi.json"] {
        assert_eq!(service.get(path).status, 200, "{path}");
    }
}

#[test]
fn names_that_others_make_lead_here_are_refused() {
    let service = with_key();
    let get = |host: &str| service.request("GET", "/").host(host).send().status;
    let port = service.address.port();
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]:1",
        &format!("localhost:{port}"),
        "draw.local:80",
    ] {
        assert_eq!(get(host), 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example:7860", ""] {
        assert_eq!(get(host), 421, "{host}");
    }
}

#[test]
fn pages_of_other_sites_are_refused() {
    let service = with_key();
    let ask = |origin: &str| {
        let request = service
            .request("GET", "/v1/models")
            .header("Authorization", "Bearer sesame");
        request.header("Origin", origin).send()
    };
    assert_eq!(ask("http://evil.example").status, 403);
    assert_eq!(ask("null").status, 403);
    assert_eq!(ask(&format!("http://{}", service.address)).status, 200);
    let allowed = ask("http://chat.local:3000");
    assert_eq!(allowed.status, 200);
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        Some("http://chat.local:3000")
    );
    let preflight = |origin: &str| {
        let request = service
            .request("OPTIONS", "/v1/images/generations")
            .header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "POST");
        request
            .header(
                "Access-Control-Request-Headers",
                "authorization,content-type",
            )
            .send()
    };
    let yes = preflight("http://chat.local:3000");
    assert_eq!(
        (yes.status, yes.header("access-control-allow-origin")),
        (200, Some("http://chat.local:3000"))
    );
    assert_eq!(
        preflight("http://evil.example").header("access-control-allow-origin"),
        None
    );
    // Where no site is named, none may.
    let plain = Service::shared()
        .request("GET", "/v1/models")
        .header("Origin", "http://chat.local:3000")
        .send();
    assert_eq!(
        (plain.status, plain.header("access-control-allow-origin")),
        (403, None)
    );
}

#[test]
fn beyond_this_machine_a_key_is_needed() {
    let mut open = settings();
    open.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let error = Server::start(open.clone()).unwrap_err();
    assert!(matches!(error, ServeError::NeedsKey(_)));
    assert!(error.to_string().contains("--no-auth"));
    open.no_auth = true;
    let service = Service::start(open);
    assert!(service.address.ip().is_unspecified());
    drop(service);
    let mut bad = settings();
    bad.key = Some(String::new());
    assert!(matches!(Server::start(bad).unwrap_err(), ServeError::Key));
    let mut bad = settings();
    bad.allow_origins = vec!["chat.local".to_owned()];
    assert!(matches!(
        Server::start(bad).unwrap_err(),
        ServeError::Origin(_)
    ));
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let service = Service::shared();
    let mut settings = settings();
    settings.listen = service.address;
    let error = Server::start(settings).unwrap_err();
    assert!(error.to_string().contains("--listen"), "{error}");
    assert_eq!(service.get("/health").status, 200);
}
