"""D-VAE, a variational autoencoder of directed acyclic graphs, and Bayesian optimisation in its latent space."""
