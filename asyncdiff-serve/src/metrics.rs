//! What the service has done, as Prometheus reads it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::job::Interface;
use crate::refusal::Refusal;
use crate::service::Service;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refused {
    interface: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    interface: &'static str,
    result: &'static str,
}

/// Seconds: from a small picture to a long video.
const SECONDS: [f64; 12] = [
    0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Counters of the service.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    refused: Family<Refused, Counter>,
    ended: Family<Ended, Counter>,
    pictures: Counter,
    calls: Counter,
    waiting_seconds: Histogram,
    denoising_seconds: Counter<f64, AtomicU64>,
    waiting: Gauge,
    running: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("asyncdiff");
        let metrics = Self {
            refused: Family::default(),
            ended: Family::default(),
            pictures: Counter::default(),
            calls: Counter::default(),
            waiting_seconds: Histogram::new(SECONDS),
            denoising_seconds: Counter::default(),
            waiting: Gauge::default(),
            running: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "requests_refused",
            "Requests for pictures that were refused",
            metrics.refused.clone(),
        );
        registry.register(
            "requests",
            "Requests for pictures that have ended",
            metrics.ended.clone(),
        );
        registry.register(
            "pictures",
            "Pictures and videos made",
            metrics.pictures.clone(),
        );
        registry.register(
            "denoiser_calls",
            "Denoiser calls made",
            metrics.calls.clone(),
        );
        registry.register(
            "waiting_seconds",
            "From acceptance to the start of work",
            metrics.waiting_seconds.clone(),
        );
        registry.register(
            "denoising_seconds",
            "Time spent denoising",
            metrics.denoising_seconds.clone(),
        );
        registry.register(
            "requests_waiting",
            "Requests in the queue",
            metrics.waiting.clone(),
        );
        registry.register(
            "requests_running",
            "Requests at work",
            metrics.running.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// A request was refused.
    pub fn refused(&self, interface: Interface, status: StatusCode) {
        let label = Refused {
            interface: interface.name(),
            status: status.as_u16(),
        };
        self.refused.get_or_create(&label).inc();
    }

    /// A request has ended: `made`, `cancelled` or `failed`.
    pub fn ended(&self, interface: Interface, result: &'static str) {
        let label = Ended {
            interface: interface.name(),
            result,
        };
        self.ended.get_or_create(&label).inc();
    }

    /// A request's turn has come.
    pub fn waited(&self, time: Duration) {
        self.waiting_seconds.observe(time.as_secs_f64());
    }

    /// A round was denoised.
    pub fn denoised(&self, time: Duration, calls: usize) {
        self.denoising_seconds.inc_by(time.as_secs_f64());
        self.calls.inc_by(calls as u64);
    }

    /// Pictures were made.
    pub fn made(&self, pictures: usize) {
        self.pictures.inc_by(pictures as u64);
    }
}

/// `GET /metrics`
#[utoipa::path(get, path = "/metrics", tag = "service", responses((status = 200, description = "Counters in OpenMetrics text")))]
pub(crate) async fn get(State(service): State<Arc<Service>>) -> Result<impl IntoResponse, Refusal> {
    let metrics = &service.metrics;
    metrics.waiting.set(service.queue.len() as i64);
    metrics.running.set(service.running().len() as i64);
    let mut text = String::new();
    encode(&mut text, &metrics.registry)
        .map_err(|error| Refusal::internal("the metrics cannot be written", error))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}
