//! The daemon's TCP ports: bound before the node opens, so that health answers while it starts and a port that is
//! taken is known before anything else happens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::api::{ApiError, Service};
use crate::config::Settings;
use crate::http::{Clients, Port, Site, Slot, Token};
use crate::node::Node;

/// Bound ports. Health and metrics are served at once, the API when the node is open.
pub(super) struct Ports {
    slot: Slot,
    clients: Arc<Clients>,
    serving: Vec<AbortOnDropHandle<()>>,
    stop: watch::Sender<bool>,
    addresses: BTreeMap<String, String>,
    api: Option<(Port, Arc<Token>)>,
}

impl Ports {
    pub(super) async fn bind(settings: &Settings) -> Result<Self, ApiError> {
        let (monitoring, security) = (&settings.monitoring, &settings.security);
        let mut ports = Self {
            slot: Slot::default(),
            clients: Arc::new(Clients::new(security)),
            serving: Vec::new(),
            stop: watch::Sender::new(false),
            addresses: BTreeMap::new(),
            api: None,
        };
        let at = |port| SocketAddr::new(monitoring.listen, port);
        if let (Some(address), Some(file)) = (security.api_listen, &security.api_token_file) {
            let token = Arc::new(Token::read(file)?);
            let port = Port::bind(address, "security.api_listen").await?;
            ports.addresses.insert("api".to_owned(), port.address.to_string());
            ports.api = Some((port, token));
        }
        let health = Port::bind(at(monitoring.health_check_port), "monitoring.health_check_port").await?;
        let metrics = match monitoring.enable_metrics {
            true => Some(Port::bind(at(monitoring.metrics_port), "monitoring.metrics_port").await?),
            false => None,
        };
        ports.serve("health", health, Site::Health(ports.slot.clone()));
        if let Some(metrics) = metrics {
            ports.serve("metrics", metrics, Site::Metrics(ports.slot.clone()));
        }
        Ok(ports)
    }

    fn serve(&mut self, name: &str, port: Port, site: Site) {
        self.addresses.insert(name.to_owned(), port.address.to_string());
        let mut stop = self.stop.subscribe();
        let stopped = async move {
            stop.wait_for(|stop| *stop).await.ok();
        };
        let serving = port.serve(site, self.clients.clone(), stopped);
        self.serving.push(AbortOnDropHandle::new(tokio::spawn(serving)));
    }

    /// Serves the open node, until it stops; gives the clients' rates, so that they can be changed.
    pub(super) fn open(mut self, node: &Arc<Node>, settings: &Settings) -> Result<Arc<Clients>, ApiError> {
        let service: Arc<dyn Service> = node.clone();
        if let Some((port, token)) = self.api.take() {
            let body_bytes_max = settings.security.max_request_size;
            self.serve("api", port, Site::Api { service: service.clone(), token, body_bytes_max });
        }
        self.slot.set(service).ok();
        node.listens(self.addresses.clone());
        let clients = self.clients.clone();
        node.before_network(self.end());
        Ok(clients)
    }

    async fn end(self) -> Result<(), ApiError> {
        self.stop.send_replace(true);
        futures::future::join_all(self.serving).await;
        Ok(())
    }
}
