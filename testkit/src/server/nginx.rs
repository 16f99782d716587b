//! A real nginx.

use std::{fs, net::SocketAddr, process::Command};

use tempfile::TempDir;

use super::process::Process;
use crate::port::Port;

const PROGRAM: &str = "nginx";
const PACKAGE: &str = "nginx-light";

/// An `nginx` of one test's own. Killed, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Nginx {
    // Before the folder, which must outlive it.
    _process: Process,
    port: Port,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one whose server block holds `locations`, as `location / { return 200 "ok"; }`.
    ///
    /// # Panics
    /// It is not installed (the message says what to install), or does not come up: with what it said.
    pub fn start(locations: &str) -> Self {
        Nginx::try_start(locations).unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn try_start(locations: &str) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("ganger-nginx-")
            .tempdir()
            .map_err(|error| format!("no temporary folder: {error}"))?;
        let port = Port::reserve().map_err(|error| format!("no free port on loopback: {error}"))?;
        let config = folder.path().join("nginx.conf");
        fs::write(&config, config_text(&folder.path().display().to_string(), port.address(), locations))
            .map_err(|error| format!("{}: {error}", config.display()))?;
        let mut command = Command::new(PROGRAM);
        command.current_dir(folder.path()).arg("-p").arg(folder.path()).arg("-c").arg(&config);
        // It says this once its sockets listen.
        let process = Process::start(PROGRAM, PACKAGE, &mut command, |line| line.contains("event method"))?;
        Ok(Nginx { _process: process, port, _folder: folder })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The URL of a path that begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }
}

fn config_text(folder: &str, address: SocketAddr, locations: &str) -> String {
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr notice;\n\
         events {{}}\n\
         http {{\n\
           access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};\n\
           fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n\
           server {{ listen {address}; root {folder}; {locations} }}\n\
         }}\n"
    )
}
