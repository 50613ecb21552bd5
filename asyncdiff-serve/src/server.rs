//! Listening, and the end of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::classify::ServerErrorsFailureClass;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use tower_http::trace::TraceLayer;

use crate::catalog::{Catalog, LoraSource, ModelSource};
use crate::door::{self, Door};
use crate::engine::{Devices, Engine};
use crate::limits::Limits;
use crate::plans::{Planner, Planning};
use crate::refusal::{self, Refusal};
use crate::service::Service;
use crate::{automatic1111, documents, files, metrics, openai, page};

/// What a service is to do, and for whom.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Where to listen; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// The models that requests may name, at least one; the first is taken where a request names none.
    pub models: Vec<ModelSource>,
    /// Other names of the first model.
    pub aliases: Vec<String>,
    /// The LoRAs that prompts may name.
    pub loras: Vec<LoraSource>,
    /// Sets of devices, at least one. Each set makes a picture of its own at a time.
    pub devices: Vec<Devices>,
    /// Models, or models with LoRAs, that stay loaded on each set of devices.
    pub loaded: usize,
    /// What plans are chosen by.
    pub planning: Planning,
    /// Decodes big pictures in tiles.
    pub vae_tiling: bool,
    /// What whoever asks has to know.
    pub key: Option<String>,
    /// Listens beyond this machine without a key, too.
    pub no_auth: bool,
    /// Names of this service beside addresses and `localhost`.
    pub allow_hosts: Vec<String>,
    /// Sites whose pages may ask, such as `http://chat.local:3000`; `*` for any.
    pub allow_origins: Vec<String>,
    /// How much a request may ask for.
    pub limits: Limits,
    /// Whether what is at work when the service is stopped is finished.
    pub drain: bool,
}

impl Settings {
    /// A service of this machine for itself: models on one CPU device, no key, the usual limits.
    #[must_use]
    pub fn new(models: Vec<ModelSource>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7860)),
            models,
            aliases: Vec::new(),
            loras: Vec::new(),
            devices: vec![Devices {
                names: "cpu".to_owned(),
                threads: None,
            }],
            loaded: 2,
            planning: Planning::default(),
            vae_tiling: false,
            key: None,
            no_auth: false,
            allow_hosts: Vec::new(),
            allow_origins: Vec::new(),
            limits: Limits::default(),
            drain: false,
        }
    }
}

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Others could reach it, and nothing keeps them out.
    #[error(
        "at {0}, other machines reach this service, and it has no key: give one (--api-key-file), or say that it needs none (--no-auth)"
    )]
    NeedsKey(SocketAddr),
    /// No models, or no devices.
    #[error("a service needs at least one {0}: name one")]
    Nothing(&'static str),
    /// A key that no header could hold.
    #[error(
        "the key is empty, or has spaces or other characters that no header holds: use letters and digits"
    )]
    Key,
    /// A site's name that no header could hold.
    #[error("{0:?} is no site: write it as http://chat.local:3000, or * for any")]
    Origin(String),
    /// The address is taken, or not this machine's.
    #[error("cannot listen at {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        source: std::io::Error,
    },
    /// Threads, or what they need.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// A device.
    #[error(transparent)]
    Device(#[from] asyncdiff_models::device::DeviceError),
    /// The first model cannot be loaded.
    #[error("{0}")]
    Model(String),
}

/// A service that runs.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stopper: Stopper,
    thread: JoinHandle<std::io::Result<()>>,
    engines: Vec<JoinHandle<()>>,
}

/// Stops a service. All clones are one.
#[derive(Clone, Debug)]
pub struct Stopper {
    service: Arc<Service>,
    drain: bool,
    stopped: watch::Sender<bool>,
}

impl Stopper {
    /// Lets nobody in any more, refuses what waits, and ends what is at work, or lets it end where the settings say so.
    pub fn stop(&self) {
        self.service.close(self.drain);
        self.stopped.send_replace(true);
    }
}

/// How long open connections may last when nothing is at work any more.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a client may be silent in the middle of what it sends.
const SILENCE: Duration = Duration::from_secs(30);

impl Server {
    /// Loads the first model, and listens.
    ///
    /// # Errors
    ///
    /// [`ServeError`] for settings that are not safe or not possible, and models that cannot be loaded.
    pub fn start(settings: Settings) -> Result<Self, ServeError> {
        check(&settings)?;
        let Settings {
            listen,
            models,
            aliases,
            loras,
            devices,
            loaded,
            planning,
            vae_tiling,
            key,
            allow_hosts,
            allow_origins,
            limits,
            drain,
            ..
        } = settings;
        let cors = cors(&allow_origins)?;
        let door = Arc::new(Door::new(key, allow_hosts, allow_origins));
        let mut names = Vec::new();
        // A run is planned for any of the sets.
        let mut least = usize::MAX;
        for set in &devices {
            let workers = set.workers()?;
            least = least.min(workers.len());
            if names.is_empty() {
                names = workers
                    .iter()
                    .map(|worker| worker.name().to_owned())
                    .collect();
            }
        }
        let catalog = Catalog::new(models, aliases, loras);
        let mut service = Service::new(catalog, Planner::new(planning, least), limits, names);
        service.vae_tiling = vae_tiling;
        let service = Arc::new(service);

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("asyncdiff-http")
            .enable_all()
            .build()?;
        let source = std::net::TcpListener::bind(listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = source.map_err(|source| ServeError::Listen {
            address: listen,
            source,
        })?;
        let address = listener.local_addr()?;
        let engines = engines(&service, devices, loaded, runtime.handle())?;

        let stopped = watch::Sender::new(false);
        let stopper = Stopper {
            service: Arc::clone(&service),
            drain,
            stopped: stopped.clone(),
        };
        let served = Arc::clone(&service);
        let app = app(service, door, cors);
        let thread = thread::Builder::new()
            .name("asyncdiff-serve".to_owned())
            .spawn(move || {
                let served = runtime.block_on(serve(listener, app, served, stopped.subscribe()));
                runtime.shutdown_timeout(FAREWELL);
                served
            })?;
        Ok(Self {
            address,
            stopper,
            thread,
            engines,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// Whatever the operating system says against listening on.
    pub fn wait(self) -> Result<(), ServeError> {
        for engine in self.engines {
            // One that has met a fault has said so.
            let _ = engine.join();
        }
        match self.thread.join() {
            Ok(served) => Ok(served?),
            Err(_) => Err(ServeError::Model(
                "the service has met a fault: see its log".to_owned(),
            )),
        }
    }
}

fn check(settings: &Settings) -> Result<(), ServeError> {
    if settings.models.is_empty() {
        return Err(ServeError::Nothing("model"));
    }
    if settings.devices.is_empty() {
        return Err(ServeError::Nothing("set of devices"));
    }
    if let Some(key) = &settings.key
        && (key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return Err(ServeError::Key);
    }
    let reachable = !settings.listen.ip().to_canonical().is_loopback();
    match reachable && settings.key.is_none() && !settings.no_auth {
        true => Err(ServeError::NeedsKey(settings.listen)),
        false => Ok(()),
    }
}

/// Starts a thread for every set of devices, and waits until the first model is loaded on all of them.
fn engines(
    service: &Arc<Service>,
    devices: Vec<Devices>,
    loaded: usize,
    runtime: &tokio::runtime::Handle,
) -> Result<Vec<JoinHandle<()>>, ServeError> {
    let (sender, loads) = mpsc::channel();
    let mut engines = Vec::new();
    for set in devices {
        let (service, runtime, sender) = (Arc::clone(service), runtime.clone(), sender.clone());
        let name = format!("asyncdiff {}", set.names);
        engines.push(thread::Builder::new().name(name).spawn(move || {
            match Engine::new(&service, set, loaded, runtime) {
                Ok(engine) => {
                    let _ = sender.send(Ok(()));
                    engine.work();
                }
                Err(refusal) => {
                    let reason = refusal.reason.unwrap_or(refusal.message);
                    let _ = sender.send(Err(ServeError::Model(reason)));
                }
            }
        })?);
    }
    drop(sender);
    for _ in 0..engines.len() {
        let load = loads
            .recv()
            .unwrap_or_else(|_| Err(ServeError::Model("the model cannot be loaded".to_owned())));
        if let Err(error) = load {
            service.close(false);
            return Err(error);
        }
    }
    Ok(engines)
}

/// Answers until the service is stopped, and what is at work has ended.
async fn serve(
    listener: std::net::TcpListener,
    app: Router,
    service: Arc<Service>,
    mut stopped: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut told = stopped.clone();
    let farewell = async move {
        let _ = told.wait_for(|stopped| *stopped).await;
        // Until then, whoever comes is told that nothing new is begun.
        while !service.running().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (ended, mut end) = watch::channel(false);
    let graceful = async move {
        farewell.await;
        ended.send_replace(true);
    };
    let served = axum::serve(listener, app).with_graceful_shutdown(graceful);
    let late = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
        let _ = end.wait_for(|ended| *ended).await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = async { served.await } => served,
        () = late => Ok(()),
    }
}

fn cors(origins: &[String]) -> Result<CorsLayer, ServeError> {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE]);
    if origins.iter().any(|origin| origin == "*") {
        return Ok(layer.allow_origin(AllowOrigin::any()));
    }
    let parse = |origin: &String| {
        let is_site = origin
            .split_once("://")
            .is_some_and(|(_, site)| !site.is_empty() && !site.contains('/'));
        let value = HeaderValue::from_str(origin).ok().filter(|_| is_site);
        value.ok_or_else(|| ServeError::Origin(origin.clone()))
    };
    let origins = origins.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok(layer.allow_origin(origins))
}

fn app(service: Arc<Service>, door: Arc<Door>, cors: CorsLayer) -> Router {
    let header = |name: &'static str, value: &'static str| {
        let name = HeaderName::from_static(name);
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    let trace = TraceLayer::new_for_http().make_span_with(|request: &Request| {
        // The path as it was declared: neither what is secret in an address, nor what a client makes up.
        let path = request.extensions().get::<MatchedPath>();
        let path = path.map_or("elsewhere", MatchedPath::as_str);
        tracing::info_span!("request", method = %request.method(), path)
    });
    let trace = trace.on_failure(
        |failure: ServerErrorsFailureClass, latency: Duration, _: &tracing::Span| match is_meant(
            &failure,
        ) {
            true => tracing::warn!(%failure, ?latency, "refused"),
            false => tracing::error!(%failure, ?latency, "failed"),
        },
    );
    let body_bytes = service.limits.body_bytes;
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics::get))
        .route("/files/{name}", get(files::get))
        .merge(page::router())
        .merge(openai::router())
        .merge(automatic1111::router())
        .merge(documents::router())
        .method_not_allowed_fallback(async || Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..Refusal::bad("this address takes other methods: see /docs")
        })
        .fallback(async || Refusal::missing("there is nothing at this address: see /docs"))
        .with_state(service)
        .layer(DefaultBodyLimit::max(body_bytes))
        .layer(RequestBodyTimeoutLayer::new(SILENCE))
        .layer(CatchPanicLayer::custom(|_| fault()))
        .layer(middleware::from_fn_with_state(door, door::guard))
        .layer(cors)
        .layer(middleware::from_fn(refusal::tell))
        .layer(trace)
        .layer(header("x-content-type-options", "nosniff"))
        .layer(header("referrer-policy", "no-referrer"))
        .layer(header("cache-control", "no-store"))
}

/// Whether a failure is as it is to be: the service ends, or a request takes longer than it may.
fn is_meant(failure: &ServerErrorsFailureClass) -> bool {
    matches!(
        failure,
        ServerErrorsFailureClass::StatusCode(
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        )
    )
}

fn fault() -> Response {
    Refusal::fault().into_response()
}

/// Whether the service is there.
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, description = "It is there"), (status = 503, description = "It is about to end")))]
pub(crate) async fn health(
    axum::extract::State(service): axum::extract::State<Arc<Service>>,
) -> (StatusCode, Json<Value>) {
    match service.is_closing() {
        true => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": "closing" })),
        ),
        false => (StatusCode::OK, Json(json!({ "status": "ok" }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_of_the_service_are_errors_in_its_log() {
        let meant = |status| is_meant(&ServerErrorsFailureClass::StatusCode(status));
        assert!(meant(StatusCode::SERVICE_UNAVAILABLE));
        assert!(meant(StatusCode::GATEWAY_TIMEOUT));
        assert!(!meant(StatusCode::INTERNAL_SERVER_ERROR));
    }
}
