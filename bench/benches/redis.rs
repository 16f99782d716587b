//! `cargo bench -p ganger-bench --bench redis`: the same as `ganger bench redis`.
fn main() -> std::process::ExitCode {
    ganger_bench::main("redis")
}
