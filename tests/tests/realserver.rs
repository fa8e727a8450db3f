//! The backend side: the shipped decapsulation program frame by frame (BPF_PROG_TEST_RUN), the
//! host's set-up and its removal in namespaces, and real TCP through tunnels of all four pairs.

mod realserver {
    pub(crate) mod frames;
    mod host;
    mod program;
    mod tunnels;
}
