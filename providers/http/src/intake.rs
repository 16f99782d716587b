//! The intake: listens, and serves until it is told to stop.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use ganger_core::{Intake, IntakeContext, IntakeSink, ProviderError, Stop};
use hyper::Method;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    HttpIntakeConfig,
    address::{Hosts, bind, endpoint},
    admission::Admission,
    connections::{self, Porch},
    wait::Ends,
};

/// Takes jobs in over HTTP.
pub struct HttpIntake {
    /// `None` where another program listens on an address that nobody asked for.
    porch: Option<Porch>,
    address: SocketAddr,
    endpoint: String,
    methods: Vec<Method>,
    admission: Admission,
    name: String,
    config: HttpIntakeConfig,
}

/// What every request needs.
pub(crate) struct Door {
    pub name: String,
    pub endpoint: String,
    pub methods: Vec<Method>,
    pub hosts: Hosts,
    pub admission: Admission,
    pub config: HttpIntakeConfig,
    pub sink: IntakeSink,
    pub stop: Stop,
    /// Requests that may wait for their jobs.
    pub waiting: Arc<Semaphore>,
    /// What they wait for.
    pub ends: Ends,
}

impl HttpIntake {
    /// The address that it listens on, which is bound already; port 0 if it listens nowhere.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Intake for HttpIntake {
    const NAME: &'static str = "http";
    type Config = HttpIntakeConfig;

    async fn open(config: HttpIntakeConfig, cx: IntakeContext) -> Result<Self, ProviderError> {
        let fail = |why: &str| ProviderError::fatal(format!("`{}`: {why}", cx.name));
        let endpoint = endpoint(&cx.name, &config.endpoint)?;
        if config.token.as_ref().is_some_and(|token| token.reveal().is_empty()) {
            return Err(fail("`token` is empty"));
        }
        let methods = config.methods.iter().map(|name| Method::from_bytes(name.as_bytes()));
        let methods: Vec<Method> =
            methods.collect::<Result<_, _>>().map_err(|_| fail("`methods` names one that is none"))?;
        if methods.is_empty() || config.max_jobs == 0 || config.max_connections == 0 {
            return Err(fail(
                "`methods`, `max_jobs` and `max_connections` cannot be empty or 0: nothing would be taken in",
            ));
        }
        let listener = bind(&cx.name, &config, cx.configured).await?;
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let address = listener.as_ref().map_or(Ok(nowhere), TcpListener::local_addr).map_err(|error| {
            ProviderError::fatal(format!("`{}` does not know its address", cx.name)).because(error)
        })?;
        let admission = Admission::new(&cx.name, &config.accept, cx.catalog);
        let porch = listener.map(Porch::new);
        Ok(HttpIntake { porch, address, endpoint, methods, admission, name: cx.name, config })
    }

    async fn run(self, sink: IntakeSink, stop: Stop) -> Result<(), ProviderError> {
        let HttpIntake { porch, address, endpoint, methods, admission, name, config } = self;
        let Some(porch) = porch else {
            stop.wait().await;
            return Ok(());
        };
        let Some(listener) = porch.leave().await else { return Ok(()) };
        tracing::info!(intake = name, store = sink.name, "listening on http://{address}{endpoint}");
        let hosts = Hosts::new(address, &config);
        let waiting = Arc::new(Semaphore::new(config.max_waiting as usize));
        let ends = Ends::default();
        let door =
            Arc::new(Door { name, endpoint, methods, hosts, admission, config, sink, stop, waiting, ends });
        tokio::select! {
            () = connections::serve(listener, door.clone()) => {}
            () = door.ends.serve(&door.name, &*door.sink.sink, &door.stop) => {}
        }
        Ok(())
    }
}
