//! `cargo bench -p ganger-bench --bench manager`: the same as `ganger bench manager`.
fn main() -> std::process::ExitCode {
    ganger_bench::main("manager")
}
