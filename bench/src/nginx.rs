//! A real nginx on a free port, for the time of a measurement.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// An nginx that answers every GET with `200 ok`. Ended, and its folder removed, when dropped.
pub(crate) struct Nginx {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    /// Starts one.
    ///
    /// # Errors
    /// It is not installed (the message says what to install), or it does not come up within 5 s.
    pub(crate) fn start() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let address = free_address().map_err(|error| format!("no free port on loopback: {error}"))?;
        let config = folder.path().join("nginx.conf");
        fs::write(&config, config_text(&folder.path().display().to_string(), address))
            .map_err(|error| format!("{}: {error}", config.display()))?;
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                format!("nginx cannot be started ({error}): install it, as by `apt-get install nginx-light`")
            })?;
        let mut nginx = Nginx { child, address, _folder: folder };
        nginx.wait_until_up()?;
        Ok(nginx)
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            if answers(self.address) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("nginx ended at once: {status}"));
            }
            if Instant::now() > until {
                return Err(format!("nginx does not answer on {}", self.address));
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It is our child and has not been waited for, so the pid is its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut head = [0; 12];
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_exact(&mut head).is_ok()
        && head.ends_with(b" 200")
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn config_text(folder: &str, address: SocketAddr) -> String {
    format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; keepalive_requests 100000000; client_body_temp_path {folder}; proxy_temp_path {folder};\n\
           fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n\
           server {{ listen {address}; location / {{ return 200 \"ok\\n\"; }} }}\n\
         }}\n"
    )
}
