//! `cargo bench -p ganger-bench --bench process`: the same as `ganger bench process`.
fn main() -> std::process::ExitCode {
    ganger_bench::main("process")
}
