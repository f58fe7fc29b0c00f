//! test
pub const PRIVNET_BIN: &str = "PRIVNET_BIN";
pub fn task(_: Option<&str>) -> anyhow::Result<()> {
    Ok(())
}
