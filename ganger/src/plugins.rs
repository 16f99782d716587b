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

/// The files that keep what a job's last run printed, by stream and by a worker entry's options, if it keeps any on this
/// machine.
#[cfg(feature = "cli")]
pub(crate) fn kept_files(
    plugin: &str,
    options: &serde_json::Value,
    id: &ganger_core::JobId,
) -> [Option<PathBuf>; 2] {
    #[cfg(feature = "worker-cli")]
    if plugin == ganger_worker_cli::PLUGIN.name
        && let Some(keep) = options.get("keep_output")
        && let Ok(keep) = serde_json::from_value(keep.clone())
    {
        return ganger_worker_cli::kept_files(&keep, id);
    }
    let _ = (plugin, options, id);
    [None, None]
}
