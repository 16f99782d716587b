//! `cargo bench -p ganger-bench --bench http`: the same as `ganger bench http`.
fn main() -> std::process::ExitCode {
    ganger_bench::main("http")
}
