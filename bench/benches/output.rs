//! `cargo bench -p ganger-bench --bench output`: the same as `ganger bench output`.
fn main() -> std::process::ExitCode {
    ganger_bench::main("output")
}
