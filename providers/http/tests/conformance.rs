//! The intake keeps what every intake owes.
#![allow(clippy::unwrap_used)]

mod support;

use std::{net::SocketAddr, sync::Mutex};

use ganger_conformance::IntakeHarness;
use ganger_core::{DynIntake, Intake, Job, ProviderError};
use ganger_provider_http::{HttpIntake, HttpIntakeConfig};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

#[derive(Default)]
struct Harness {
    address: Mutex<Option<SocketAddr>>,
}

async fn open(listen_on: &str) -> Result<HttpIntake, ProviderError> {
    let config = json!({"listen_on": listen_on, "accept": [ganger_conformance::manager::KIND]});
    let config: HttpIntakeConfig = serde_json::from_value(config).unwrap();
    HttpIntake::open(config, support::context("http")).await
}

impl IntakeHarness for Harness {
    async fn open(&self) -> Box<dyn DynIntake> {
        let intake = open("127.0.0.1:0").await.unwrap();
        *self.address.lock().unwrap() = Some(intake.local_addr());
        Box::new(intake)
    }

    async fn submit(&self, job: Job) -> bool {
        let address = self.address.lock().unwrap().unwrap();
        let Ok(mut stream) = TcpStream::connect(address).await else { return false };
        let body = job.to_json();
        let head = format!(
            "POST /job/add?wait=false HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        support::reply(&mut stream).await.status == 202
    }

    async fn open_on_a_taken_address(&self) -> Option<(ProviderError, String)> {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = first.local_addr().unwrap().to_string();
        Some((open(&taken).await.err().unwrap(), taken))
    }
}

ganger_conformance::intake!(Harness::default());
