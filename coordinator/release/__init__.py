"""The open release (DESIGN §9): what it is made of, how it is written, published and read.

gather     a run as its log and its store tell it → Facts        documents   files made of facts
write      all files of a release, and its manifest               publish     into the log, cosigned
bundle     a release as others read it; knows neither torch nor flwr
"""
