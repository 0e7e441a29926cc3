"""MatterTune: its checkpoints, and a plugin that runs inside it.

``import mdl_physpretrain.hosts.mattertune.plugin`` makes the plugin's names
known to MatterTune: data ``eam_labelled``; backbones ``mattersim_m3gnet``,
``cgcnn``, ``torchmd_et``; recipes ``physics_pretrain``, ``sam``, ``replay``,
``shuffle``, ``md_physicality``. ``physpretrain mattertune`` does that before it
runs a configuration. Importing this package alone does not import MatterTune.
"""
