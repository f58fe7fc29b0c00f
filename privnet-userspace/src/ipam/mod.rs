//! Which address, VNI and subnet is whose; pure.
