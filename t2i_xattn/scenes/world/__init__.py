"""The world"""
