//! Every plugin of the binary, one line each: the only file that names them all.

#[cfg(feature = "cli")]
use std::path::PathBuf;

use ganger_core::Plugin;

/// Workers that are code of the program itself; they are no plugins, since no config can name them.
pub use ganger_worker_function as function;

/// The plugins that this program was built with.
pub const PLUGINS: &[Plugin] = &[
    #[cfg(feature = "provider-disk")]
    ganger_provider_disk::PLUGIN,
    #[cfg(feature = "provider-http")]
    ganger_provider_http::PLUGIN,
    #[cfg(feature = "provider-memory")]
    ganger_provider_memory::PLUGIN,
    #[cfg(feature = "provider-redis")]
    ganger_provider_redis::PLUGIN,
    #[cfg(feature = "worker-cli")]
    ganger_worker_cli::PLUGIN,
    #[cfg(feature = "worker-disk")]
    ganger_worker_disk::PLUGIN,
    #[cfg(feature = "worker-forward")]
    ganger_worker_forward::PLUGIN,
    #[cfg(feature = "worker-http")]
    ganger_worker_http::PLUGIN,
    #[cfg(feature = "worker-process")]
    ganger_worker_process::PLUGIN,
];

/// The file that keeps the output of a job's last run, by a worker entry's options, if it keeps any on this machine.
#[cfg(feature = "cli")]
pub(crate) fn kept_file(
    plugin: &str,
    options: &serde_json::Value,
    id: &ganger_core::JobId,
) -> Option<PathBuf> {
    #[cfg(feature = "worker-cli")]
    if plugin == ganger_worker_cli::PLUGIN.name {
        let keep = serde_json::from_value(options.get("keep_output")?.clone()).ok()?;
        return ganger_worker_cli::kept_file(&keep, id);
    }
    let _ = (plugin, options, id);
    None
}
