//! `cargo bench -p ganger-bench --bench disk`: the same as `ganger bench disk`.
fn main() -> std::process::ExitCode {
    ganger_bench::main("disk")
}
